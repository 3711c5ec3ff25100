"""jobs, status, watch, pause, resume, cancel, retry, recover."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from parquetry import api
from parquetry.api import Job
from parquetry.commands.arguments import AsJson, JobName
from parquetry.schemas.errors import ExitCode
from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus

PANEL = "Follow and steer jobs"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (jobs, status, watch, pause, resume, cancel, retry, recover):
        app.command(rich_help_panel=PANEL)(command)


def jobs(as_json: AsJson = False) -> None:
    """List the broker's jobs and its live workers."""
    from parquetry.terminal.display import console, jobs_table, print_json, worker_warnings, workers_table

    found, alive = api.jobs(), api.live_workers()
    if as_json:
        workers = [worker.model_dump(mode="json") for worker in alive]
        print_json({"jobs": [_as_dict(job) for job in found], "workers": workers})
        return
    screen = console()
    screen.print(jobs_table(found) if found else "No jobs.")
    screen.print(workers_table(alive) if alive else "No workers; `parquetry worker` starts one.")
    for warning in worker_warnings(alive):
        screen.print(warning)


def status(job: JobName, as_json: AsJson = False) -> None:
    """Show one job's numbers."""
    _show(Job.open(job).status(), as_json=as_json)


def watch(
    job: JobName,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON at every look.")] = False,
) -> None:
    """Follow one job until it ends."""
    opened = Job.open(job)
    ended = _watch_json(opened, interval) if as_json else _watch_bars(opened, interval)
    raise typer.Exit(ExitCode.DONE if ended is JobState.DONE else ExitCode.FAILED_SHARDS)


def _watch_bars(job: Job, interval: float) -> JobState:
    from parquetry.terminal.bars import live_display
    from parquetry.terminal.display import console

    with live_display(console(stderr=True)) as display:
        for now in job.follow(interval):
            display.show(now)
    return now.state


def _watch_json(job: Job, interval: float) -> JobState:
    from parquetry.monitor.job_progress import History
    from parquetry.monitor.observer import describe_job

    history = History()
    for now in job.follow(interval):
        print(json.dumps(describe_job(now, history.add(now)), ensure_ascii=False), flush=True)
    return now.state


def pause(job: JobName, as_json: AsJson = False) -> None:
    """Stop handing out shards of a job; running ones are given back within seconds."""
    _change(job, Job.pause, as_json=as_json)


def resume(job: JobName, as_json: AsJson = False) -> None:
    """Go on with a paused or cancelled job."""
    _change(job, Job.resume, as_json=as_json)


def cancel(job: JobName, as_json: AsJson = False) -> None:
    """Stop a job; what is committed stays."""
    _change(job, Job.cancel, as_json=as_json)


def retry(job: JobName, as_json: AsJson = False) -> None:
    """Queue the failed shards of a job again, and only those."""
    _change(job, Job.retry, as_json=as_json)


def recover(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The job's output folder or URI.")],
    as_json: AsJson = False,
) -> None:
    """Rebuild a job in an empty broker from its output: finished shards stay finished."""
    _confirm(api.recover(output), as_json=as_json)


def _change(name: str, change: Callable[[Job], None], *, as_json: bool) -> None:
    job = Job.open(name)
    change(job)
    _confirm(job, as_json=as_json)


def _confirm(job: Job, *, as_json: bool) -> None:
    now = job.status()
    if as_json:
        _show(now, as_json=True)
    else:
        print(f"{now.job} is {now.state}: {now.shards_done:,} of {now.shards:,} shards done.")


def _show(now: JobStatus, *, as_json: bool) -> None:
    from parquetry.monitor.job_progress import JobProgress
    from parquetry.terminal.display import console, failure_lines, print_json, status_table

    if as_json:
        print_json(_as_dict(now))
        return
    screen = console()
    screen.print(status_table(now, JobProgress.of([now])))
    for line in failure_lines(now):
        screen.print(line)


def _as_dict(now: JobStatus) -> dict[str, Any]:
    from parquetry.monitor.job_progress import JobProgress
    from parquetry.monitor.observer import describe_job

    return describe_job(now, JobProgress.of([now]))
