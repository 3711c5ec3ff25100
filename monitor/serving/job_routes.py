"""Addresses at which jobs are read: JSON, and the stream of what changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from parquetry.monitor.job_details import JobDetails
from parquetry.monitor.observer import DEFAULT_SIZE, Observer
from parquetry.monitor.serving.access import AccessGate
from parquetry.monitor.serving.answers import SECURITY_HEADERS, json_answer
from parquetry.monitor.serving.sessions import Role
from parquetry.monitor.serving.stream import Streams
from parquetry.schemas.errors import BadInputError, ParquetryError
from parquetry.tasks.report.page import CONTENT_POLICY

Endpoint = Callable[[Request], Awaitable[Response]]
Look = Callable[[], dict[str, Any]]


class NumberError(BadInputError):
    """{name} is not a number: {value!r}."""


class JobRoutes:
    """What may be asked of one observer."""

    def __init__(self, observer: Observer, details: JobDetails, streams: Streams, gate: AccessGate) -> None:
        self.observer = observer
        self.details = details
        self.streams = streams
        self.gate = gate

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Endpoint by address."""
        one = "/api/jobs/{job}"
        return {
            "/api/jobs": _answering(self._jobs),
            "/api/stream": self._stream,
            one: _answering(lambda request: self.observer.job(_job(request))),
            f"{one}/rates": _answering(lambda request: self.details.rates(_job(request))),
            f"{one}/shards": _answering(self._shards),
            f"{one}/shards/{{shard:int}}": _answering(
                lambda request: self.details.shard(_job(request), request.path_params["shard"])
            ),
            f"{one}/rows": self._for_operators(_answering(self._rows)),
            f"{one}/errors": _answering(self._errors),
            f"{one}/about": self._for_operators(_answering(lambda request: self.details.about(_job(request)))),
            f"{one}/events": _answering(lambda request: self.details.happened(_job(request))),
            f"{one}/report": self._for_operators(self._report),
        }

    def _jobs(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        search, state = query.get("search", ""), query.get("state", "")
        return self.observer.jobs(search, state, _number(request, "page", 1), _number(request, "size", DEFAULT_SIZE))

    def _shards(self, request: Request) -> dict[str, Any]:
        return self.details.shards(_job(request), _number(request, "first", 0), _number(request, "count", 0))

    def _rows(self, request: Request) -> dict[str, Any]:
        shard = _number(request, "shard", -1)
        first, count = _number(request, "first", 0), _number(request, "count", 10)
        return self.details.rows(_job(request), None if shard < 0 else shard, first, count)

    def _errors(self, request: Request) -> dict[str, Any]:
        """What is wrong with rows is everybody's; what is in them is the operators'."""
        return self.details.errors(_job(request), with_input=self._is_operator(request))

    def _is_operator(self, request: Request) -> bool:
        return self.gate.role_of(request) is Role.OPERATOR

    def _for_operators(self, endpoint: Endpoint) -> Endpoint:
        """Prompts and outputs are for no viewer, who sees numbers and errors."""

        async def guarded(request: Request) -> Response:
            if self._is_operator(request):
                return await endpoint(request)
            return json_answer({"error": "a viewer sees no rows and no spec; log in with the operator's token"}, 403)

        return guarded

    async def _report(self, request: Request) -> Response:
        """One page for people, under a policy that allows its own style and nothing else."""
        text = await run_in_threadpool(self.details.report, _job(request))
        headers = {**SECURITY_HEADERS, "content-security-policy": f"{CONTENT_POLICY}; frame-ancestors 'none'"}
        return HTMLResponse(text, headers=headers)

    async def _stream(self, request: Request) -> Response:
        """One job with `job`, else a page of the list."""
        job = request.query_params.get("job")
        if job is not None:
            # an unknown job is an answer, not a stream of complaints
            await run_in_threadpool(self.observer.job, job)
        look: Look = (lambda: self.observer.job(job)) if job is not None else (lambda: self._jobs(request))
        return self.streams.answer(look, lambda: self._may_look(request))

    def _may_look(self, request: Request) -> bool:
        try:
            return self.gate.role_of(request) is not None
        except ParquetryError:
            return False


def _answering(find: Callable[[Request], dict[str, Any]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return json_answer(await run_in_threadpool(find, request))

    return endpoint


def _job(request: Request) -> str:
    return str(request.path_params["job"])


def _number(request: Request, name: str, default: int) -> int:
    """Raises NumberError."""
    value = request.query_params.get(name, "")
    try:
        return int(value) if value else default
    except ValueError:
        raise NumberError(name=name, value=value[:40]) from None
