"""What `run` says at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parquetry.monitor.progress.job_progress import JobProgress
from parquetry.output import head, repaired_cells, ways_to_read
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.spec.budget import cost_text
from parquetry.tasks.report.duration import duration
from parquetry.terminal.display import console, failure_lines, number, rows_table, safe_text
from parquetry.terminal.job_lines import error_lines
from parquetry.workers.shards.provenance import from_metadata

if TYPE_CHECKING:
    from parquetry.local.run import FinishedRun
    from parquetry.schemas.progress.status import JobStatus

#: rows of the output that are shown at the end
SHOWN_ROWS = 3


def run_as_dict(finished: FinishedRun) -> dict[str, Any]:
    """The final status, what this run added to it, and how long it took."""
    status = finished.status.model_dump(mode="json")
    return {**status, "rows_added": finished.rows_added, "seconds": round(finished.seconds, 3)}


def print_run(finished: FinishedRun, shown_rows: int) -> None:
    """Where the output lies, what it holds, and its first rows."""
    print_end(finished.status, shown_rows, finished)


def print_end(status: JobStatus, shown_rows: int = SHOWN_ROWS, finished: FinishedRun | None = None) -> None:
    """How a job ended, whoever watched it; `finished` where it was run here."""
    screen = console()
    screen.print(headline(status, finished))
    screen.print(f"Output: {safe_text(status.output, limit=4096)}")
    rows = head(status.output, shown_rows)
    if rows is not None and (line := dtype_line(from_metadata(rows.schema.metadata))):
        screen.print(line)
    for line in (*error_lines(status.errors), *failure_lines(status)):
        screen.print(line)
    if status.state is JobState.FAILED:
        screen.print(_way_on(status, finished))
    if status.why == "budget":
        screen.print(f"Its budget is spent: {cost_text(status)}. The same command with a larger one goes on.")
    for column, count in repaired_cells(status.output).items():
        cells = "1 cell" if count == 1 else f"{count:,} cells"
        screen.print(f"Not UTF-8, and repaired with U+FFFD: {cells} of the kept column {safe_text(column)}")
    if rows is not None and rows.num_rows:
        screen.print(rows_table(rows))
        screen.print("Read it with one of:")
        for way in ways_to_read(status.output).values():
            screen.print(f"  {safe_text(way, limit=4096)}")


def dtype_line(provenance: Mapping[str, str]) -> str | None:
    """Which dtype the first part was computed in, and why; None where its engine had no choice."""
    if "dtype" not in provenance or "why_dtype" not in provenance:
        return None
    return f"Computed in {safe_text(provenance['dtype'])}: {safe_text(provenance['why_dtype'], limit=200)}"


def _way_on(status: JobStatus, finished: FinishedRun | None) -> str:
    if finished is None:
        return f"`parquetry retry {status.job}` tries the failed shards again."
    return f"The same command tries the failed shards again. The worker's log: {finished.log}"


def headline(status: JobStatus, finished: FinishedRun | None = None) -> str:
    """One sentence: state, rows, error rows, how long it took, and the rates while it was computed."""
    rows = f"{status.rows_done:,} of {status.rows:,} rows"
    errors = f", {status.error_rows:,} of them error rows" if status.error_rows else ""
    if finished is not None and finished.rows_added == 0 and status.state is JobState.DONE:
        return f"Job {status.job} was done already: {rows}{errors}; nothing was computed."
    progress = JobProgress.of(status)
    tokens = status.prompt_tokens + status.output_tokens
    counted = f", {number(tokens)} tokens" if tokens else ""
    took = duration(progress.elapsed_s if finished is None else finished.seconds)
    return f"Job {status.job} is {status.state}: {rows}{errors}{counted} in {took}{_rates(progress)}."


def _rates(progress: JobProgress) -> str:
    if progress.rows_per_s is None:
        return ""
    tokens = f" and {number(progress.tokens_per_s)} tokens/s" if progress.tokens_per_s else ""
    computing = f" in the {duration(progress.computing_s)} of computing" if progress.computing_s else ""
    return f": {number(progress.rows_per_s)} rows/s{tokens}{computing}"
