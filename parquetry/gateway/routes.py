"""What is answered at each address."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from parquetry.gateway.batches import Batches
from parquetry.gateway.gateway_spec import GatewaySpec
from parquetry.gateway.refusals import Refusal, not_found
from parquetry.gateway.result_files import ResultFiles
from parquetry.gateway.stored_files import StoredFiles, copy_out
from parquetry.gateway.uploads import read_upload
from parquetry.gateway.users import Users

#: of a body that is no file
_MAX_BODY = 64 << 10
_MOST_LISTED = 10_000


class Routes:
    """The endpoints. Each asks first who sends."""

    def __init__(self, spec: GatewaySpec, users: Users, files: StoredFiles, batches: Batches, started: int) -> None:
        self._spec, self._users, self._files, self._batches = spec, users, files, batches
        self._results = ResultFiles(batches)
        self._started = started

    @property
    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self._plain(self.list_files)),
            Route("/v1/files/{id}", self._plain(self.file)),
            Route("/v1/files/{id}", self._plain(self.delete_file), methods=["DELETE"]),
            Route("/v1/files/{id}/content", self._plain(self.content)),
            Route("/v1/batches", self.create_batch, methods=["POST"]),
            Route("/v1/batches", self._plain(self.list_batches)),
            Route("/v1/batches/{id}", self._plain(self.batch)),
            Route("/v1/batches/{id}/cancel", self._plain(self.cancel_batch), methods=["POST"]),
            Route("/v1/models", self._plain(self.list_models)),
            Route("/v1/models/{id:path}", self._plain(self.model)),
        ]

    def _plain(self, answer: Callable[[str, Request], Any]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of what needs nothing of the body; it may wait for storage and queue."""

        async def endpoint(request: Request) -> Response:
            user = self._users.of(request)
            found = await run_in_threadpool(answer, user, request)
            return found if isinstance(found, Response) else JSONResponse(found)

        return endpoint

    async def upload(self, request: Request) -> Response:
        """Take a file."""
        user = self._users.of(request)
        upload = await read_upload(request, self._spec.limits.file_bytes)
        try:
            return JSONResponse(await run_in_threadpool(self._files.put, user, upload))
        finally:
            upload.close()

    def list_files(self, user: str, request: Request) -> Any:
        """Files that were sent, and files of batches, newest first."""
        files = [*self._files.of_user(user), *self._results.of_user(user)]
        purpose = request.query_params.get("purpose")
        files = [found for found in files if purpose in (None, found["purpose"])]
        files.sort(
            key=lambda found: (found["created_at"], found["id"]), reverse=request.query_params.get("order") != "asc"
        )
        after = request.query_params.get("after")
        start = next((at + 1 for at, found in enumerate(files) if found["id"] == after), 0)
        stop = start + _limit(request, _MOST_LISTED)
        return _page(files[start:stop], has_more=len(files) > stop)

    def file(self, user: str, request: Request) -> Any:
        """One file."""
        name = request.path_params["id"]
        result = self._results.get(user, name)
        return self._files.get(user, name) if result is None else result.about

    def content(self, user: str, request: Request) -> Response:
        """The bytes of a file."""
        name = request.path_params["id"]
        result = self._results.get(user, name)
        file = self._files.open(user, name) if result is None else result.open()
        return StreamingResponse(copy_out(file), media_type="application/octet-stream")

    def delete_file(self, user: str, request: Request) -> Any:
        """Remove a file that no open batch reads."""
        name = request.path_params["id"]
        result = self._results.get(user, name)
        if result is not None:
            result.delete()
        elif (batch := self._batches.uses(user, name)) is not None:
            raise Refusal(400, f"The file is read by {batch}, which has not ended; cancel that first.", code="in_use")
        else:
            self._files.delete(user, name)
        return {"id": name, "object": "file", "deleted": True}

    async def create_batch(self, request: Request) -> Response:
        """Begin a batch."""
        user = self._users.of(request)
        body = await _body(request)
        return JSONResponse(await run_in_threadpool(self._batches.create, user, body))

    def list_batches(self, user: str, request: Request) -> Any:
        """A page of batches."""
        found, more = self._batches.page(user, request.query_params.get("after"), _limit(request, 100, usual=20))
        return _page(found, has_more=more)

    def batch(self, user: str, request: Request) -> Any:
        """One batch."""
        return self._batches.get(user, request.path_params["id"])

    def cancel_batch(self, user: str, request: Request) -> Any:
        """Stop a batch."""
        return self._batches.cancel(user, request.path_params["id"])

    def list_models(self, user: str, request: Request) -> Any:
        """The models that lines may ask for."""
        return {"object": "list", "data": [self._model(name) for name in sorted(self._spec.models)]}

    def model(self, user: str, request: Request) -> Any:
        """One of these."""
        name = request.path_params["id"]
        if name not in self._spec.models:
            raise not_found("model", name)
        return self._model(name)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "parquetry"}


def _page(found: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    ends = {"first_id": found[0]["id"] if found else None, "last_id": found[-1]["id"] if found else None}
    return {"object": "list", "data": found, **ends, "has_more": has_more}


def _limit(request: Request, most: int, usual: int | None = None) -> int:
    text = request.query_params.get("limit", str(usual or most))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= most:
        raise Refusal(400, f"limit is a number from 1 to {most}.", param="limit")
    return int(text)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY:
            raise Refusal(413, f"The body is larger than {_MAX_BODY:,} bytes.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not valid JSON.") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body is no JSON object.")
    return found
