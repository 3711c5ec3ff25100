"""What the page answers with: JSON, HTML and files, all under one content policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PAGE = Path(__file__).parent / "page"
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def html_answer(text: str, status: int = 200) -> Response:
    """A page."""
    return Response(text, status, media_type="text/html", headers=SECURITY_HEADERS)


def json_answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Plain data."""
    return JSONResponse(data, status, headers={**SECURITY_HEADERS, **(headers or {})})


def page_files() -> dict[str, Path]:
    """Scripts, styles and pictures of the page, by the address that each is sent at."""
    found = (file for file in sorted(PAGE.rglob("*")) if file.suffix in MEDIA_TYPES)
    return {f"/{file.relative_to(PAGE).as_posix()}": file for file in found}


def send_file(file: Path) -> Callable[[Request], Any]:
    """An endpoint that sends one file of the page."""

    async def send(request: Request) -> Response:
        return Response(file.read_text("utf-8"), media_type=MEDIA_TYPES[file.suffix], headers=SECURITY_HEADERS)

    return send
