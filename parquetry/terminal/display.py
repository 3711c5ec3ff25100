"""How statuses, workers and rows look in a terminal. Text from data is shown, never obeyed."""

from __future__ import annotations

import json
import sys
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parquetry.schemas.errors import RowError
from parquetry.schemas.progress.status import JobStatus
from parquetry.workers.preparation.cells import cells

MAX_CELL = 200
#: of why a shard failed: paths come first, and what is to be known last
MAX_REASON = 1000
SHOWN_FAILURES = 5
#: columns that `rows_table` leaves out
COUNT_COLUMNS = ("finish_reason", "prompt_tokens", "output_tokens")


def console(*, stderr: bool = False) -> Console:
    """A console that interprets no markup, emoji codes or highlighting in what it prints."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=not sys.stdout.isatty())


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(data, ensure_ascii=False, indent=2, default=str))


def safe_text(value: Any, limit: int = MAX_CELL) -> str:
    """`value` on one line, without control characters that a terminal would act on, at most `limit` characters."""
    text = "" if value is None else str(value)
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def number(value: float | None) -> str:
    """12,345 or 3.4; a dash for None."""
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 10 and not float(value).is_integer() else f"{value:,.0f}"


def failure_lines(status: JobStatus) -> list[str]:
    """Why the job or its shards failed: a line a reason with the shards it explains, the first few of both."""
    by_reason: dict[str, list[int]] = {}
    for failure in status.failures:
        by_reason.setdefault(safe_text(failure.reason, MAX_REASON), []).append(failure.shard)
    lines = [safe_text(status.refusal, limit=4096)] if status.refusal else []
    lines += [f"{_shards(shards)}: {reason}" for reason, shards in by_reason.items()]
    more = len(lines) - SHOWN_FAILURES
    return lines[:SHOWN_FAILURES] + ([f"and {more} more reasons"] if more > 0 else [])


def _shards(shards: list[int]) -> str:
    shown = ", ".join(map(str, shards[:SHOWN_FAILURES]))
    more = len(shards) - SHOWN_FAILURES
    return f"{'shard' if len(shards) == 1 else 'shards'} {shown}{f' and {more} more' if more > 0 else ''}"


def rows_table(rows: pa.Table) -> Table:
    """Rows of the output, long cells cut; counts, and an empty error column, make room for the text."""
    table = Table(show_lines=True)
    hidden = {*COUNT_COLUMNS, *(["error"] if _all_null(rows, "error") else [])}
    rows = rows.select([name for name in rows.column_names if name not in hidden])
    for name in rows.column_names:
        table.add_column(Text(safe_text(name)), overflow="fold")
    for row in plain_rows(rows):
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    return table


def plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as values that can be shown, whatever is in them: what has no Python value is text, or says why not."""
    columns = [cells(name, rows[name].combine_chunks()) for name in rows.column_names]
    return [dict(zip(rows.column_names, map(_readable, values), strict=True)) for values in zip(*columns, strict=True)]


def _readable(value: Any) -> Any:
    return f"({value})" if isinstance(value, RowError) else value


def _all_null(rows: pa.Table, column: str) -> bool:
    return column in rows.column_names and rows[column].null_count == rows.num_rows


def _cell(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return safe_text(f"[{', '.join(f'{_cell(item)}' for item in value[:3])}, ... {len(value)} values]")
    return safe_text(f"{value:.4g}" if isinstance(value, float) else value)
