"""Refusals in the form that OpenAI's clients read."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from parquetry.schemas.errors import BadInputError, ParquetryError

log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that is refused, with what its sender is told."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}


def not_found(kind: str, name: str) -> Refusal:
    """What is said of a thing that is not there, or is another user's: the same of both."""
    return Refusal(404, f"No such {kind}: {name}", param="id", code="not_found")


def _answer(refusal: Refusal) -> JSONResponse:
    return JSONResponse({"error": refusal.error}, refusal.status)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return _answer(error)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    """Errors of jobs, the queue and storage: a passing one may be tried again."""
    if isinstance(error, BadInputError):
        return _answer(Refusal(400, str(error)))
    # what it says of hosts and folders is for the operator
    log.error("%s %s: %s", request.method, request.url.path, error)
    return _answer(Refusal(503, "The gateway cannot reach its queue or its storage; try again in a while."))


async def _routing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = "Unknown request URL" if error.status_code == 404 else str(error.detail)
    return _answer(Refusal(error.status_code, f"{message}: {request.method} {request.url.path}"))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    return _answer(Refusal(500, "The gateway failed on this request; its log says why."))


HANDLERS: dict[Any, Any] = {Refusal: _refused, ParquetryError: _ours, HTTPException: _routing, Exception: _bug}
