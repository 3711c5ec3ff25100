"""JSON Lines: an object a line, read one by one, so that a bad line is itself and no more.

Python's own parser, on purpose: Arrow's takes types from the first block, turns strings that look like dates into
timestamps and large integers into doubles, and runs out of stack on deeply nested lines.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Mark
from parquetry.workers.reading.json_decoding import UnfitJsonError, decode_object
from parquetry.workers.reading.lines import Line, lines
from parquetry.workers.reading.text_rows import Column, TextFormat, TextRow, is_text


class JsonLines(TextFormat):
    """A file of JSON objects."""

    def rows(self, stream: io.BufferedReader, mark: Mark) -> Iterator[TextRow]:
        for line in lines(stream, mark, settings().max_row_bytes):
            if line.data is None or line.data.strip():
                yield _row(line)

    def column(self, rows: Sequence[TextRow], name: str, kind: pa.DataType) -> Column:
        values = [None if row.values is None else row.values.get(name) for row in rows]
        repaired = frozenset(index for index, row in enumerate(rows) if name in row.repaired)
        try:
            return Column(pa.array(values, kind), {}, repaired)
        # values of other types than the column's
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return Column(*_cell_by_cell(name, values, kind), repaired)


def _row(line: Line) -> TextRow:
    if line.data is None:
        return TextRow(line.number, line.byte, None, f"it is longer than {settings().max_row_bytes:,} bytes")
    try:
        values, repaired = decode_object(line.data)
    except UnfitJsonError as error:
        return TextRow(line.number, line.byte, None, str(error))
    return TextRow(line.number, line.byte, values, None, repaired)


def _cell_by_cell(name: str, values: list[Any], kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    cells: list[Any] = []
    faults: dict[int, str] = {}
    for index, value in enumerate(values):
        cell, fault = _cell(name, value, kind)
        cells.append(cell)
        if fault is not None:
            faults[index] = fault
    return pa.array(cells, kind), faults


def _cell(name: str, value: Any, kind: pa.DataType) -> tuple[Any, str | None]:
    if value is None:
        return None, None
    if is_text(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), None
    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None, f"{name} is {str(value)[:40]!r}, which is no {kind}"
    return value, None
