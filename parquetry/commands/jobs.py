"""jobs, status, watch, pause, resume, cancel, priority, retry, recover."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from parquetry.api import calls as api
from parquetry.api.job import Job
from parquetry.commands.arguments import AsJson, JobName, Overrides
from parquetry.monitor.serving.audit import note_change, user_here
from parquetry.schemas.errors import ExitCode
from parquetry.schemas.progress.states import JobState
from parquetry.spec_file import parse_override

PANEL = "Follow and steer jobs"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (jobs, status, watch, pause, resume, cancel, priority, retry, recover):
        app.command(rich_help_panel=PANEL)(command)


def jobs(as_json: AsJson = False) -> None:
    """List the broker's jobs and its live workers."""
    from parquetry.monitor.job_view import worker_as_dict
    from parquetry.terminal.display import console, print_json
    from parquetry.terminal.job_tables import jobs_table, worker_warnings, workers_table

    found, alive = api.job_views(), api.live_workers()
    if as_json:
        workers = [worker_as_dict(worker) for worker in alive]
        print_json({"jobs": [view.as_dict() for view in found], "workers": workers})
        return
    screen = console()
    screen.print(jobs_table(found, screen.width) if found else "No jobs.")
    screen.print(workers_table(alive) if alive else "No workers; `parquetry worker` starts one.")
    for warning in worker_warnings(alive):
        screen.print(warning)


def status(job: JobName, as_json: AsJson = False) -> None:
    """Show one job's numbers, what it waits for, its rates and the time left."""
    from parquetry.terminal.display import console, failure_lines, print_json
    from parquetry.terminal.job_lines import error_lines
    from parquetry.terminal.job_tables import status_table

    view = api.job(job).view()
    if as_json:
        print_json(view.as_dict())
        return
    screen = console()
    screen.print(status_table(view))
    for line in (*error_lines(view.status.errors), *failure_lines(view.status)):
        screen.print(line)


def watch(
    job: JobName,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON at every look.")] = False,
) -> None:
    """Follow one job until it ends, then show what `run` shows at its end."""
    opened = api.job(job)
    ended = _watch_json(opened, interval) if as_json else _watch_bars(opened, interval)
    raise typer.Exit(ExitCode.DONE if ended is JobState.DONE else ExitCode.FAILED_SHARDS)


def _watch_bars(job: Job, interval: float) -> JobState:
    from parquetry.local.summary import print_end
    from parquetry.terminal.bars import live_display
    from parquetry.terminal.display import console

    display = live_display(console(stderr=True))
    display.begin(job.status(), None)
    with display:
        for view in job.follow_views(interval):
            display.show(view)
    print_end(view.status)
    return view.status.state


def _watch_json(job: Job, interval: float) -> JobState:
    for view in job.follow_views(interval):
        print(json.dumps(view.as_dict(), ensure_ascii=False), flush=True)
    return view.status.state


def pause(job: JobName, as_json: AsJson = False) -> None:
    """Stop handing out shards of a job; running ones are given back within seconds."""
    _stop(job, Job.pause, as_json=as_json)


def resume(job: JobName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Go on with a paused or cancelled job, with a larger budget as in --set budget.gpu_hours=4."""
    changes = dict(map(parse_override, overrides or ()))
    if other := next((key for key in changes if not key.startswith("budget.")), None):
        raise typer.BadParameter(f"--set {other}: a job is resumed with another budget alone")
    budget = {key.removeprefix("budget."): value for key, value in changes.items()} or None
    _change(job, partial(Job.resume, budget=budget), as_json=as_json, called="resume")


def cancel(job: JobName, as_json: AsJson = False) -> None:
    """Stop a job; what is committed stays."""
    _stop(job, Job.cancel, as_json=as_json)


def priority(
    job: JobName,
    number: Annotated[int, typer.Argument(metavar="N", help="0 goes first, 9 last.")],
    as_json: AsJson = False,
) -> None:
    """Change the priority of a job, from the next shard on."""
    opened = api.job(job)
    before = opened.status().priority
    opened.prioritize(number)
    note_change(f"priority {number}", opened.id, user_here())
    if as_json:
        _confirm(opened, as_json=True)
    else:
        print(f"{opened.id} has priority {number}; it had {before}.")


def retry(
    job: JobName,
    rows: Annotated[
        bool, typer.Option("--rows", help="Compute the error rows of a job that has ended anew instead.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Queue the failed shards of a job again, and only those.

    With --rows its error rows are computed anew, by other settings where --set gives some, and merged into the output.
    """
    if rows:
        _retry_rows(api.job(job), dict(map(parse_override, overrides or ())), as_json=as_json)
    elif overrides:
        raise typer.BadParameter("--set is of --rows: shards are tried again with the settings of their job")
    else:
        _change(job, Job.retry, as_json=as_json)


def _retry_rows(job: Job, changes: dict[str, Any], *, as_json: bool) -> None:
    begun = job.retry(rows=True, changes=changes)
    note_change("retry --rows", job.id, user_here())
    if as_json:
        _confirm(job, as_json=True)
    elif not begun.rows:
        print(f"{job.id} has no error rows.")
    else:
        print(
            f"{job.id}: {begun.rows:,} error rows of {begun.shards:,} shards are computed anew (round {begun.round})."
        )


def recover(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The job's output folder or URI.")],
    as_json: AsJson = False,
) -> None:
    """Rebuild a job in an empty broker from its output: finished shards stay finished."""
    _confirm(api.recover(output), as_json=as_json)


def _stop(name: str, change: Callable[[Job], None], *, as_json: bool) -> None:
    """Change a job to a state in which its running shards are given back, and say what that drops."""
    from parquetry.monitor.progress.in_flight import WorkInFlight
    from parquetry.terminal.job_lines import in_flight_line

    before = api.job(name).status()
    _change(before.job, change, as_json=as_json)
    if not as_json:
        print(in_flight_line(WorkInFlight.of(before), are_kept=change is Job.pause))


def _change(name: str, change: Callable[[Job], None], *, as_json: bool, called: str = "") -> None:
    job = api.job(name)
    change(job)
    note_change(called or change.__name__, job.id, user_here())
    _confirm(job, as_json=as_json)


def _confirm(job: Job, *, as_json: bool) -> None:
    from parquetry.terminal.display import print_json

    if as_json:
        print_json(job.view().as_dict())
        return
    now = job.status()
    print(f"{now.job} is {now.state}: {now.shards_done:,} of {now.shards:,} shards done.")
