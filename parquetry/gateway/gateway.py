"""The gateway as an ASGI application, and its server."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from parquetry.gateway.batch_jobs import BatchJobs
from parquetry.gateway.batches import Batches
from parquetry.gateway.gateway_spec import GatewaySpec
from parquetry.gateway.refusals import HANDLERS
from parquetry.gateway.routes import Routes
from parquetry.gateway.stored_files import StoredFiles
from parquetry.gateway.users import Users
from parquetry.monitor.serving.web import listen
from parquetry.schemas.location import Location
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks.ledger.ledger import Ledger


def create_app(spec: GatewaySpec, ledger: Ledger) -> Starlette:
    """The application. It holds nothing that a restart would lose: files lie in `spec.root`, jobs in the queue.

    Raises LocationError for a root that is not allowed, PutIfAbsentError for one that cannot hold jobs.
    """
    root = Location.parse(spec.root)
    open_storage(root).check_put_if_absent()
    files = StoredFiles(root, spec.limits)
    batches = Batches(spec, root, files, BatchJobs(spec, files, ledger))
    routes = Routes(spec, Users(spec.users), files, batches, started=int(time.time()))
    return Starlette(routes=[Route("/healthz", _healthz), *routes.routes], exception_handlers=HANDLERS)


async def _healthz(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok\n")


def serve(spec: GatewaySpec, ledger: Ledger, *, host: str, port: int, announce: Callable[[str], object]) -> None:
    """Run until interrupted; `announce` gets the address (port 0 takes a free one). Raises BindError, as above."""
    import uvicorn

    app = create_app(spec, ledger)
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        announce(f"http://{name}:{listener.getsockname()[1]}/v1")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listener])
