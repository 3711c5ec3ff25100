"""What `run` says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parquetry.output import head, repaired_cells, ways_to_read
from parquetry.schemas.states import JobState
from parquetry.terminal.display import console, duration, failure_lines, number, rows_table, safe_text

if TYPE_CHECKING:
    from parquetry.local.run import FinishedRun


def run_as_dict(finished: FinishedRun) -> dict[str, Any]:
    """The final status, what this run added to it, and how long it took."""
    status = finished.status.model_dump(mode="json")
    return {**status, "rows_added": finished.rows_added, "seconds": round(finished.seconds, 3)}


def print_run(finished: FinishedRun, shown_rows: int) -> None:
    """Where the output lies, what it holds, and its first rows."""
    screen = console()
    screen.print(headline(finished))
    screen.print(f"Output: {safe_text(finished.status.output, limit=4096)}")
    for line in failure_lines(finished.status):
        screen.print(line)
    if finished.status.state is JobState.FAILED:
        screen.print(f"The same command tries the failed shards again. The worker's log: {finished.log}")
    for column, count in repaired_cells(finished.status.output).items():
        cells = "1 cell" if count == 1 else f"{count:,} cells"
        screen.print(f"Not UTF-8, and repaired with U+FFFD: {cells} of the kept column {safe_text(column)}")
    rows = head(finished.status.output, shown_rows)
    if rows is not None and rows.num_rows:
        screen.print(rows_table(rows))
        screen.print("Read it with one of:")
        for way in ways_to_read(finished.status.output).values():
            screen.print(f"  {safe_text(way, limit=4096)}")


def headline(finished: FinishedRun) -> str:
    """One sentence: state, rows, error rows, speed."""
    status = finished.status
    rows = f"{status.rows_done:,} of {status.rows:,} rows"
    errors = f", {status.error_rows:,} of them error rows" if status.error_rows else ""
    if finished.rows_added == 0 and status.state is JobState.DONE:
        return f"Job {status.job} was done already: {rows}{errors}; nothing was computed."
    tokens = status.prompt_tokens + status.output_tokens
    took = f"{duration(finished.seconds)}, {number(finished.rows_added / max(finished.seconds, 1e-9))} rows/s"
    counted = f", {number(tokens)} tokens" if tokens else ""
    return f"Job {status.job} is {status.state}: {rows}{errors}{counted} in {took}."
