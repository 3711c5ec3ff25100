"""The dashboard: pages and their JSON, state changes by POST, Prometheus metrics, health."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, quote

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from parquetry.monitor.job_details import JobDetails
from parquetry.monitor.observer import Observer
from parquetry.monitor.serving.access import COOKIE, AccessGate, TooManyTriesError, allowed_hosts, require_token
from parquetry.monitor.serving.answers import PAGE, SECURITY_HEADERS, html_answer, json_answer, page_files, send_file
from parquetry.monitor.serving.audit import note_change
from parquetry.monitor.serving.job_routes import JobRoutes
from parquetry.monitor.serving.sessions import SESSION_S, Role
from parquetry.monitor.serving.stream import Streams
from parquetry.schemas.bounded_json import parse_json
from parquetry.schemas.errors import BadInputError, ParquetryError, UnknownJobError, UnusableEnvironmentError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.budget import parse_budget
from parquetry.tasks.budget_change import change_budget
from parquetry.tasks.cancellation import cancel
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.row_retry import retry_unchanged


def _priority(number: int) -> Callable[[Ledger, str], object]:
    return lambda ledger, job: ledger.prioritize(job, number)


CHANGES: dict[str, Callable[[Ledger, str], object]] = {
    "pause": lambda ledger, job: ledger.set_state(job, JobState.PAUSED),
    "resume": lambda ledger, job: ledger.set_state(job, JobState.RUNNING),
    "cancel": lambda ledger, job: cancel(ledger, job, ledger.status(job, max_failures=0).output),
    "retry": lambda ledger, job: ledger.retry(job),
    "retry-rows": lambda ledger, job: retry_unchanged(ledger, ledger.status(job, max_failures=0)),
    **{f"priority-{number}": _priority(number) for number in range(10)},
}
OF_WORKERS: dict[str, Callable[[Ledger, str], object]] = {
    "drain": lambda ledger, worker: ledger.roster.drain(worker),
    "go-on": lambda ledger, worker: ledger.roster.drain(worker, wanted=False),
}
MAX_LOGIN_BYTES = 4096


class BindError(UnusableEnvironmentError):
    """Nothing can listen on {host} port {port}: {reason}. Choose others with --host and --port."""


class BadRequestError(BadInputError):
    """The request's body is not JSON: {reason}."""


def create_app(ledger: Ledger, token: str | None = None, viewer_token: str | None = None) -> Starlette:
    """The ASGI application. With a token every page but /login and /healthz asks for it."""
    return Dashboard(ledger, AccessGate(token, viewer_token)).app


def serve(ledger: Ledger, *, host: str, port: int, token: str | None, announce: Callable[[str], object]) -> None:
    """Run the page until interrupted; `announce` gets its address (port 0 takes a free one).

    Raises TokenRequiredError for an open bind without a token, BindError.
    """
    require_token(host, token)
    import uvicorn

    with listen(host, port) as listener:
        dashboard = Dashboard(ledger, AccessGate(token, settings().dashboard_viewer_token))
        with suppress(ParquetryError):
            # the first look at ten thousand jobs takes longer than any other, and nobody waits for it now
            dashboard.observer.jobs()
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(dashboard.app, log_level="warning", server_header=False))
        dashboard.streams.are_over = lambda: server.should_exit
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, also for the gateway. Raises BindError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise BindError(host=host, port=port, reason=error.strerror) from None


class Dashboard:
    """The routes over one ledger and one gate."""

    def __init__(self, ledger: Ledger, gate: AccessGate) -> None:
        self.observer = Observer(ledger)
        self.gate = gate
        self.streams = Streams()

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
            Route("/style.css", send_file(PAGE / "style.css")),
        ]

    def _closed_routes(self) -> list[Route]:
        files = page_files()
        of_jobs = JobRoutes(self.observer, JobDetails(self.observer.ledger), self.streams, self.gate)
        return [
            *(Route(path, self._closed(self.page)) for path in ("/", "/workers", "/job/{job}")),
            *(Route(path, self._closed(send_file(file))) for path, file in files.items() if path != "/style.css"),
            *(Route(path, self._closed(endpoint)) for path, endpoint in of_jobs.endpoints.items()),
            Route("/api/jobs/{name}/{change}", self._closed(self.change_job), methods=["POST"]),
            Route("/api/workers/{name}/{change}", self._closed(self.change_worker), methods=["POST"]),
            Route("/metrics", self._closed(self.metrics)),
        ]

    def _closed(self, endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def guarded(request: Request) -> Response:
            if self.gate.role_of(request) is not None:
                return await endpoint(request)
            if "text/html" in request.headers.get("accept", ""):
                return RedirectResponse("/login", status_code=303, headers=SECURITY_HEADERS)
            return json_answer({"error": "this dashboard needs its token"}, 401, {"www-authenticate": "Bearer"})

        return guarded

    async def page(self, request: Request) -> Response:
        """The one HTML page; its script reads off the address what to show."""
        job = request.path_params.get("job")
        if job is not None and (found := await run_in_threadpool(self._id_of, job)) != job:
            return RedirectResponse(f"/job/{quote(found, safe='')}", status_code=303, headers=SECURITY_HEADERS)
        text = (PAGE / "index.html").read_text("utf-8").replace("{{csrf}}", self.gate.csrf)
        return html_answer(text.replace("{{role}}", self.gate.role_of(request) or ""))

    def _id_of(self, text: str) -> str:
        """The job that an address names as commands do; the page says itself what is wrong with a name."""
        try:
            return self.observer.ledger.find(text)
        except ParquetryError:
            return text

    async def login_page(self, request: Request) -> Response:
        """A form that asks for the token."""
        return html_answer((PAGE / "login.html").read_text())

    async def login(self, request: Request) -> Response:
        """Trade the token for a cookie; the cookie never holds the token itself."""
        body = await _limited_body(request)
        given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        role = self.gate.try_token(given, request)
        if role is None:
            return html_answer(
                (PAGE / "login.html").read_text().replace("<!--refused-->", "That is not the token."), 403
            )
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

    async def change_job(self, request: Request) -> Response:
        """Pause, resume, cancel or retry a job."""
        changes = {**CHANGES, "budget": self._budget(await _limited_body(request))}
        refused = await self._change(request, changes)
        return refused or json_answer(await run_in_threadpool(self.observer.job, request.path_params["name"]))

    def _budget(self, body: bytes) -> Callable[[Ledger, str], object]:
        """The change to the budget that a request brings: GPU hours, or money at the price of the job."""

        def change(ledger: Ledger, job: str) -> None:
            price = ledger.status(job, max_failures=0).price_per_gpu_hour
            known = {} if price is None else {"price_per_gpu_hour": price}
            change_budget(ledger, job, parse_budget({**known, **_object(body)}))

        return change

    async def change_worker(self, request: Request) -> Response:
        """Have a worker take no more shards, or some again."""
        return await self._change(request, OF_WORKERS) or json_answer({"done": request.path_params["change"]})

    async def _change(self, request: Request, known: dict[str, Callable[[Ledger, str], object]]) -> Response | None:
        """Make a change and note who made it; the answer where it is refused."""
        name, change = request.path_params["name"], request.path_params["change"]
        if change not in known:
            return json_answer({"error": "no such change"}, 404)
        if not self.gate.may_change(request):
            return json_answer({"error": "the CSRF token is missing or stale; reload the page"}, 403)
        who = self.gate.who(request)
        if self.gate.role_of(request) is not Role.OPERATOR:
            await run_in_threadpool(note_change, change, name, who, "refused: a viewer changes nothing")
            return json_answer({"error": "a viewer may look and change nothing; log in with the operator's token"}, 403)
        try:
            await run_in_threadpool(known[change], self.observer.ledger, name)
        except ParquetryError as error:
            await run_in_threadpool(note_change, change, name, who, f"refused: {error}")
            raise
        await run_in_threadpool(note_change, change, name, who)
        self.observer.forget()
        return None

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(await run_in_threadpool(self.observer.metrics), media_type=CONTENT_TYPE_LATEST)

    async def healthz(self, request: Request) -> Response:
        """200 while the broker answers, 503 otherwise; says nothing more, because anybody may ask."""
        try:
            await run_in_threadpool(self.observer.ledger.workers)
        except ParquetryError:
            return PlainTextResponse("the broker does not answer\n", 503)
        return PlainTextResponse("ok\n")


def _object(body: bytes) -> dict[str, Any]:
    """Raises BadRequestError."""
    try:
        found = parse_json(body.decode())
    except ValueError as error:
        raise BadRequestError(reason=str(error)[:100]) from None
    if not isinstance(found, dict):
        raise BadRequestError(reason="it is no object")
    return found


async def _limited_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_LOGIN_BYTES:
            return b""
    return body


async def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, UnknownJobError):
        return json_answer({"error": str(error)}, 404)
    if isinstance(error, TooManyTriesError):
        return json_answer({"error": str(error)}, 429, {"retry-after": str(error.fields["seconds"])})
    return json_answer({"error": str(error)}, 409 if isinstance(error, BadInputError) else 503)
