"""worker, dashboard, doctor."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from parquetry.broker import configured_url, open_ledger
from parquetry.commands.arguments import AsJson, CpuEngines
from parquetry.schemas.errors import BadInputError, ExitCode
from parquetry.schemas.settings import settings

if TYPE_CHECKING:
    from parquetry.tasks.ledger.ledger import Ledger

PANEL = "Run a machine"


class GpuListError(BadInputError):
    """The GPU list --gpus {value} is not usable: {reason}; write it as 0,1 or as device UUIDs."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (worker, dashboard, doctor):
        app.command(rich_help_panel=PANEL)(command)


def worker(
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1", help="Use these GPUs; by default all visible. none: the CPU.")
    ] = None,
    gpus_per_engine: Annotated[int, typer.Option(min=1, help="GPUs one model is spread over.")] = 1,
    cpu_engines: CpuEngines = None,
    queues: Annotated[str, typer.Option(metavar="A,B", help="Queues to serve.")] = "default",
    shards_in_flight: Annotated[
        int | None, typer.Option(min=1, max=64, help="Shards a device works on at once.")
    ] = None,
    broker_wait: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Wait so long for the broker at the start; by default for ever."),
    ] = None,
) -> None:
    """Serve jobs with this machine's GPUs, or its CPU. Drains on SIGTERM and Ctrl-C."""
    devices = parse_gpus(gpus)
    names = tuple(filter(None, queues.split(",")))
    check_queues(names)
    from parquetry.monitor.stall_notices import tell_stalls
    from parquetry.tasks.node.node import NodeOptions, run_node

    share_cores(cpu_engines or 1)
    options = NodeOptions(
        broker_url=configured_url(),
        gpus=devices,
        gpus_per_engine=gpus_per_engine,
        cpu_engines=cpu_engines,
        queues=names,
        shards_in_flight=shards_in_flight or settings().shards_in_flight,
        broker_wait_s=broker_wait,
    )
    raise typer.Exit(run_node(options, (tell_stalls,)))


def check_queues(names: tuple[str, ...]) -> None:
    """A worker without Optimum, or vLLM, would fail every shard of that queue. Raises MissingPackageError."""
    from parquetry.local.needed_packages import require_engine
    from parquetry.workers.engine_needs import OWN_QUEUES

    for backend in OWN_QUEUES:
        if backend in names and settings().engine_factory is None:
            require_engine(backend)


def share_cores(engines: int) -> None:
    """Give each of several CPU engines its share of the cores: more threads than cores slow all of them down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if engines > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // engines)))


def parse_gpus(text: str | None) -> tuple[str, ...] | None:
    """Device ids from `0,1`, () for none, None for all visible. Raises GpuListError."""
    if text is None or text == "none":
        return None if text is None else ()
    devices = tuple(part.strip() for part in text.split(","))
    if not all(devices):
        raise GpuListError(value=repr(text), reason="an id is empty")
    if len(set(devices)) != len(devices):
        raise GpuListError(value=repr(text), reason="an id is given twice")
    return devices


def dashboard(
    host: Annotated[str, typer.Option(help="Address to bind; anything but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to bind.")] = 8321,
) -> None:
    """Serve the web page. PARQUETRY_DASHBOARD_TOKEN asks visitors for a token."""
    from parquetry.monitor.serving.access import require_token
    from parquetry.monitor.serving.web import serve

    token = settings().dashboard_token
    # said before the broker is asked, so that the answer does not depend on it
    require_token(host, token)
    announce = partial(print, "Dashboard on", flush=True)
    ledger = open_ledger()
    if settings().webhook_secret is not None or settings().on_event is not None:
        # a queue that no worker serves has nobody else to tell of it
        _tell_events(ledger)
    serve(ledger, host=host, port=port, token=token, announce=announce)


def _tell_events(ledger: Ledger) -> None:
    """Tell webhooks and the hook of this machine what happens to jobs, as long as this process lives."""
    from parquetry.monitor.stall_notices import tell_stalls
    from parquetry.tasks.messenger import Messenger

    Messenger(ledger, settings().reconcile_seconds, (tell_stalls,)).start()


def doctor(
    output: Annotated[str | None, typer.Option(help="Also check this output folder or URI.")] = None,
    worker: Annotated[bool, typer.Option("--worker", help="Only check that a worker of this host is alive.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check this machine, the broker and the storage, and say what to do about each finding."""
    from parquetry.diagnosis.doctor import examine, is_usable, print_findings, worker_here

    findings = worker_here() if worker else examine(output)
    print_findings(findings, as_json=as_json)
    raise typer.Exit(ExitCode.DONE if is_usable(findings) else ExitCode.UNUSABLE_ENVIRONMENT)
