"""The dashboard: pages and their JSON, state changes by POST, Prometheus metrics, health."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from parquetry.monitor.access import COOKIE, AccessGate, TooManyTriesError, allowed_hosts, require_token
from parquetry.monitor.audit import note_change
from parquetry.monitor.metrics import render
from parquetry.monitor.observer import JobLedger, Observer
from parquetry.monitor.sessions import SESSION_S, Role
from parquetry.schemas.errors import BadInputError, ParquetryError, UnknownJobError, UnusableEnvironmentError
from parquetry.schemas.settings import settings
from parquetry.schemas.states import JobState

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
CHANGES: dict[str, Callable[[JobLedger, str], object]] = {
    "pause": lambda ledger, job: ledger.set_state(job, JobState.PAUSED),
    "resume": lambda ledger, job: ledger.set_state(job, JobState.RUNNING),
    "cancel": lambda ledger, job: ledger.set_state(job, JobState.CANCELLED),
    "retry": lambda ledger, job: ledger.retry(job),
}
MAX_LOGIN_BYTES = 4096


class BindError(UnusableEnvironmentError):
    """The dashboard cannot listen on {host} port {port}: {reason}. Choose others with --host and --port."""


def create_app(ledger: JobLedger, token: str | None = None, viewer_token: str | None = None) -> Starlette:
    """The ASGI application. With a token every page but /login and /healthz asks for it."""
    return Dashboard(Observer(ledger), AccessGate(token, viewer_token)).app


def serve(ledger: JobLedger, *, host: str, port: int, token: str | None, announce: Callable[[str], object]) -> None:
    """Run the page until interrupted; `announce` gets its address (port 0 takes a free one).

    Raises TokenRequiredError for an open bind without a token, BindError.
    """
    require_token(host, token)
    import uvicorn

    with _listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            create_app(ledger, token, settings().dashboard_viewer_token), log_level="warning", server_header=False
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise BindError(host=host, port=port, reason=error.strerror) from None


class Dashboard:
    """The routes over one observer and one gate."""

    def __init__(self, observer: Observer, gate: AccessGate) -> None:
        self.observer = observer
        self.gate = gate

    @cached_property
    def app(self) -> Starlette:
        """Routes, the host check, and the errors that are answers."""
        return Starlette(
            routes=[*self._open_routes(), *self._closed_routes()],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts(self.gate.token))],
            exception_handlers={ParquetryError: _refusal},
        )

    def _open_routes(self) -> list[Route]:
        return [
            Route("/healthz", self.healthz),
            Route("/login", self.login_page),
            Route("/login", self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/style.css", _file("style.css", "text/css")),
        ]

    def _closed_routes(self) -> list[Route]:
        return [
            Route("/", self._closed(self.page)),
            Route("/job/{job}", self._closed(self.page)),
            Route("/app.js", self._closed(_file("app.js", "text/javascript"))),
            Route("/api/jobs", self._closed(self.jobs)),
            Route("/api/jobs/{job}", self._closed(self.job)),
            Route("/api/jobs/{job}/{change}", self._closed(self.change), methods=["POST"]),
            Route("/metrics", self._closed(self.metrics)),
        ]

    def _closed(self, endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            if self.gate.role_of(request) is not None:
                return await endpoint(request)
            if "text/html" in request.headers.get("accept", ""):
                return RedirectResponse("/login", status_code=303, headers=SECURITY_HEADERS)
            return _json({"error": "this dashboard needs its token"}, 401, {"www-authenticate": "Bearer"})

        return guarded

    async def page(self, request: Request) -> Response:
        """The one HTML page; its script reads the job's name off the address."""
        return _html((PAGE / "index.html").read_text().replace("{{csrf}}", self.gate.csrf))

    async def login_page(self, request: Request) -> Response:
        """A form that asks for the token."""
        return _html((PAGE / "login.html").read_text())

    async def login(self, request: Request) -> Response:
        """Trade the token for a cookie; the cookie never holds the token itself."""
        body = await _limited_body(request)
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        role = self.gate.try_token(given, request)
        if role is None:
            return _html((PAGE / "login.html").read_text().replace("<!--refused-->", "That is not the token."), 403)
        response = RedirectResponse("/", status_code=303, headers=SECURITY_HEADERS)
        secure = request.url.scheme == "https"
        cookie = self.gate.sessions.open(role)
        response.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return response

    async def logout(self, request: Request) -> Response:
        """End the login; the cookie is of no more use."""
        self.gate.sessions.close(request.cookies.get(COOKIE))
        response = RedirectResponse("/login", status_code=303, headers=SECURITY_HEADERS)
        response.delete_cookie(COOKIE)
        return response

    async def jobs(self, request: Request) -> Response:
        """Every job and every worker."""
        jobs = await run_in_threadpool(self.observer.jobs)
        workers = await run_in_threadpool(self.observer.workers)
        return _json({"jobs": jobs, "workers": workers})

    async def job(self, request: Request) -> Response:
        """One job, with the reasons of its failed shards."""
        return _json(await run_in_threadpool(self.observer.job, request.path_params["job"]))

    async def change(self, request: Request) -> Response:
        """Pause, resume, cancel or retry a job."""
        job, change = request.path_params["job"], CHANGES.get(request.path_params["change"])
        if change is None:
            return _json({"error": "no such change"}, 404)
        if not self.gate.may_change(request):
            return _json({"error": "the CSRF token is missing or stale; reload the page"}, 403)
        name, who = request.path_params["change"], self.gate.who(request)
        if self.gate.role_of(request) is not Role.OPERATOR:
            await run_in_threadpool(note_change, name, job, who, "refused: a viewer changes nothing")
            return _json({"error": "a viewer may look and change nothing; log in with the operator's token"}, 403)
        try:
            await run_in_threadpool(change, self.observer.ledger, job)
        except ParquetryError as error:
            await run_in_threadpool(note_change, name, job, who, f"refused: {error}")
            raise
        await run_in_threadpool(note_change, name, job, who)
        self.observer.forget()
        return _json(await run_in_threadpool(self.observer.job, job))

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        jobs = await run_in_threadpool(self.observer.ledger.jobs)
        workers = await run_in_threadpool(self.observer.ledger.workers)
        return Response(render(jobs, workers), media_type=CONTENT_TYPE_LATEST)

    async def healthz(self, request: Request) -> Response:
        """200 while the broker answers, 503 otherwise; says nothing more, because anybody may ask."""
        try:
            await run_in_threadpool(self.observer.ledger.workers)
        except ParquetryError:
            return PlainTextResponse("the broker does not answer\n", 503)
        return PlainTextResponse("ok\n")


async def _limited_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_LOGIN_BYTES:
            return b""
    return body


async def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, UnknownJobError):
        return _json({"error": str(error)}, 404)
    if isinstance(error, TooManyTriesError):
        return _json({"error": str(error)}, 429, {"retry-after": str(error.fields["seconds"])})
    return _json({"error": str(error)}, 409 if isinstance(error, BadInputError) else 503)


def _file(name: str, media_type: str) -> Callable[[Request], Any]:
    async def send(request: Request) -> Response:
        return Response((PAGE / name).read_text(), media_type=media_type, headers=SECURITY_HEADERS)

    return send


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="text/html", headers=SECURITY_HEADERS)


def _json(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(data, status, headers={**SECURITY_HEADERS, **(headers or {})})
