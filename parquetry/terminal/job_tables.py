"""Jobs, workers and one job's numbers as tables. Ids are never cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from parquetry.monitor.job_view import JobView
from parquetry.monitor.progress.engine_view import engine_view
from parquetry.schemas.progress.states import JobPhase
from parquetry.schemas.progress.status import JobStatus, WorkerStatus
from parquetry.schemas.spec.budget import cost_text
from parquetry.tasks.report.duration import duration
from parquetry.terminal.display import number, safe_text
from parquetry.terminal.job_lines import percent, summary, time_left, worker_text

#: below this a table would cut what is in it
TABLE_WIDTH = 120


def jobs_table(jobs: Sequence[JobView], width: int) -> RenderableType:
    """One line a job where there is room for it, else its id with a line below."""
    if width < TABLE_WIDTH:
        return Group(*(line for view in jobs for line in (Text(_called(view)), Text(f"  {summary(view)}"))))
    table = Table(box=None, pad_edge=False)
    table.add_column("job", no_wrap=True, min_width=max(len(view.status.job) for view in jobs))
    with_names = any(view.status.name for view in jobs)
    numbers = ("phase", "done", "rows", "tok/s", "left", "error rows", "failed shards")
    for name in ("name", *numbers) if with_names else numbers:
        table.add_column(name)
    table.add_column("output", overflow="fold")
    for view in jobs:
        names = (view.status.name,) if with_names else ()
        table.add_row(Text(view.status.job), *map(Text, (*names, *_job_cells(view))))
    return table


def _called(view: JobView) -> str:
    return f"{view.status.job} ({view.status.name})" if view.status.name else view.status.job


def _job_cells(view: JobView) -> list[str]:
    status, progress = view.status, view.progress
    is_running = view.phase.phase is JobPhase.RUNNING
    return [
        view.phase.phase.value,
        percent(progress.fraction),
        f"{progress.rows_done:,} of {progress.rows:,}",
        number(progress.tokens_per_s) if is_running or status.state.is_final else "-",
        time_left(view) if is_running else "-",
        f"{progress.error_rows:,}",
        f"{status.shards_failed:,}",
        safe_text(status.output),
    ]


def workers_table(workers: Iterable[WorkerStatus]) -> Table:
    """One line a worker."""
    table = Table("device", "queue", "phase", "model", "does", "worker", box=None, pad_edge=False)
    for worker in workers:
        view = engine_view(worker)
        does = f"{number(view.prompt_tokens_per_s + view.output_tokens_per_s)} tok/s" if view else "-"
        cells = (worker.device, worker.queue, worker.state.phase.value, worker.model or "-", does, worker.worker)
        table.add_row(*(Text(safe_text(cell)) for cell in cells))
    return table


def worker_warnings(workers: Iterable[WorkerStatus]) -> list[str]:
    """A line for each thing that a worker's engine had to do without."""
    return [
        safe_text(f"warning: {worker.worker}: {reason}", limit=1000)
        for worker in workers
        for reason in (worker.engine.slowed_by if worker.engine else ())
    ]


def status_table(view: JobView) -> Table:
    """One job's numbers, a name and a value a line."""
    table = Table("", "", box=None, show_header=False, pad_edge=False)
    table.columns[1].overflow = "fold"
    for name, value in _numbers(view).items():
        if value:
            table.add_row(Text(name, "dim"), Text(safe_text(value, limit=1000)))
    return table


def _numbers(view: JobView) -> dict[str, str]:
    status, progress = view.status, view.progress
    waiting = f"{status.shards_running:,} running, {status.shards_pending:,} waiting, {status.shards_failed:,} failed"
    rates = f"{number(progress.prompt_tokens_per_s)} prompt and {number(progress.output_tokens_per_s)} output tokens/s"
    computed = f"{status.computed_prompt_tokens:,} prompt, {status.computed_output_tokens:,} output computed"
    return {
        "job": status.job,
        "name": status.name,
        "phase": view.phase.text,
        "task": f"{status.task} with {status.model}",
        "done": f"{percent(progress.fraction)}, {time_left(view)}".rstrip(", "),
        "rows": f"{progress.rows_done:,} of {status.rows:,}, {progress.error_rows:,} of them error rows",
        "shards": f"{status.shards_done:,} of {status.shards:,} done, {waiting}",
        "tokens": computed,
        "speed": f"{number(progress.rows_per_s)} rows/s, {rates}",
        "engines": "; ".join(worker_text(*pair) for pair in zip(view.workers, view.engines, strict=True)),
        "shard": _shard_times(status),
        "time": f"{duration(progress.elapsed_s)} so far, {duration(progress.computing_s)} of it computing",
        "cost": cost_text(status),
        "retries": f"{status.retries:,}",
        "reused": f"{status.reused_rows:,} rows that earlier attempts had finished" if status.reused_rows else "",
        "queue": f"{status.queue}, priority {status.priority}",
        "output": status.output,
    }


def _shard_times(status: JobStatus) -> str:
    """The mean of committed shards; where most of it is preparing or writing, the card waits."""
    count = sum(status.shard_durations)
    if not count:
        return ""
    parts = (
        (status.shard_seconds, "a shard"),
        (status.prepare_seconds, "preparing rows"),
        (status.write_seconds, "writing"),
    )
    return ", ".join(f"{duration(seconds / count)} {what}" for seconds, what in parts)
