"""jobs, status, watch, pause, resume, cancel, retry, recover."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parquetry.broker import open_ledger
from parquetry.commands.arguments import AsJson, JobName
from parquetry.schemas.errors import ExitCode
from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus

if TYPE_CHECKING:
    from parquetry.tasks.ledger.ledger import Ledger

PANEL = "Follow and steer jobs"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (jobs, status, watch, pause, resume, cancel, retry, recover):
        app.command(rich_help_panel=PANEL)(command)


def jobs(as_json: AsJson = False) -> None:
    """List the broker's jobs and its live workers."""
    from parquetry.display import console, jobs_table, print_json, workers_table

    ledger = open_ledger()
    found, alive = ledger.jobs(), ledger.workers()
    if as_json:
        workers = [worker.model_dump(mode="json") for worker in alive]
        print_json({"jobs": [_as_dict(job) for job in found], "workers": workers})
        return
    screen = console()
    screen.print(jobs_table(found) if found else "No jobs.")
    screen.print(workers_table(alive) if alive else "No workers; `parquetry worker` starts one.")


def status(job: JobName, as_json: AsJson = False) -> None:
    """Show one job's numbers."""
    _show(open_ledger().status(job), as_json=as_json)


def watch(
    job: JobName,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON at every look.")] = False,
) -> None:
    """Follow one job until it ends."""
    ended = _watch_json(job, interval) if as_json else _watch_bars(job, interval)
    raise typer.Exit(ExitCode.DONE if ended.state is JobState.DONE else ExitCode.FAILED_SHARDS)


def _watch_bars(job: str, interval: float) -> JobStatus:
    from parquetry.bars import live_display
    from parquetry.display import console

    ledger = open_ledger()
    with live_display(console(stderr=True)) as display:
        while True:
            now = ledger.status(job)
            display.show(now)
            if now.state.is_final:
                return now
            time.sleep(interval)


def _watch_json(job: str, interval: float) -> JobStatus:
    from parquetry.monitor.observer import describe
    from parquetry.monitor.progress import History

    ledger, history = open_ledger(), History()
    while True:
        now = ledger.status(job)
        print(json.dumps(describe(now, history.add(now)), ensure_ascii=False), flush=True)
        if now.state.is_final:
            return now
        time.sleep(interval)


def pause(job: JobName, as_json: AsJson = False) -> None:
    """Stop handing out shards of a job; running ones are given back within seconds."""
    _change(job, JobState.PAUSED, as_json=as_json)


def resume(job: JobName, as_json: AsJson = False) -> None:
    """Go on with a paused or cancelled job."""
    _change(job, JobState.RUNNING, as_json=as_json)


def cancel(job: JobName, as_json: AsJson = False) -> None:
    """Stop a job; what is committed stays."""
    _change(job, JobState.CANCELLED, as_json=as_json)


def retry(job: JobName, as_json: AsJson = False) -> None:
    """Queue the failed shards of a job again, and only those."""
    ledger = open_ledger()
    ledger.retry(job)
    _confirm(ledger, job, as_json=as_json)


def recover(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The job's output folder or URI.")],
    as_json: AsJson = False,
) -> None:
    """Rebuild a job in an empty broker from its output: finished shards stay finished."""
    from parquetry.tasks.recovery import recover as rebuild

    ledger = open_ledger()
    _confirm(ledger, rebuild(output, ledger).job, as_json=as_json)


def _change(job: str, state: JobState, *, as_json: bool) -> None:
    ledger = open_ledger()
    ledger.set_state(job, state)
    _confirm(ledger, job, as_json=as_json)


def _confirm(ledger: Ledger, job: str, *, as_json: bool) -> None:
    now = ledger.status(job)
    if as_json:
        _show(now, as_json=True)
    else:
        print(f"{now.job} is {now.state}: {now.shards_done:,} of {now.shards:,} shards done.")


def _show(now: JobStatus, *, as_json: bool) -> None:
    from parquetry.display import console, failure_lines, print_json, status_table
    from parquetry.monitor.progress import Progress

    if as_json:
        print_json(_as_dict(now))
        return
    screen = console()
    screen.print(status_table(now, Progress.of([now])))
    for line in failure_lines(now):
        screen.print(line)


def _as_dict(now: JobStatus) -> dict[str, Any]:
    from parquetry.monitor.observer import describe
    from parquetry.monitor.progress import Progress

    return describe(now, Progress.of([now]))
