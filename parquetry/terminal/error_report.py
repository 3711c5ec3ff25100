"""Error rows by reason in a terminal: how many, which, and some of them with what they were given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from parquetry.terminal.display import safe_text

if TYPE_CHECKING:
    from parquetry.tasks.report.error_groups import ErrorExample, ErrorGroup

SHOWN_NUMBERS = 20


def error_report(groups: Sequence[ErrorGroup], rows: int) -> Iterator[str]:
    """Lines; `rows` are all of the job."""
    total = sum(group.rows for group in groups)
    if not total:
        yield "No error rows."
        return
    reasons = "1 reason" if len(groups) == 1 else f"{len(groups):,} reasons"
    yield f"{total:,} error rows of {rows:,}, for {reasons}:"
    for group in groups:
        yield ""
        yield f"{group.rows:,} rows: {safe_text(group.kind)}"
        yield f"  rows {_numbers(group)}"
        for example in group.examples:
            yield from _example(example)


def _numbers(group: ErrorGroup) -> str:
    shown = ", ".join(map(str, group.row_numbers[:SHOWN_NUMBERS]))
    more = group.rows - SHOWN_NUMBERS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _example(example: ErrorExample) -> Iterator[str]:
    yield f"  row {example.row} (shard {example.shard}): {safe_text(example.error, 400)}"
    for name, value in example.input.items():
        yield f"    {safe_text(name)}: {safe_text(value)}"
