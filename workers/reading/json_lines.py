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
from parquetry.workers.reading.lines import Line, lines
from parquetry.workers.reading.text_rows import Column, TextFormat, TextRow, is_text

#: of arrays and objects within each other; deeper lines are refused, since later steps recurse as deep
MAX_DEPTH = 100
#: a value and the place behind it; what `json.loads` does around this takes longer than most lines do
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


class JsonLines(TextFormat):
    """A file of JSON objects."""

    def rows(self, stream: io.BufferedReader, mark: Mark) -> Iterator[TextRow]:
        for line in lines(stream, mark, settings().max_row_bytes):
            if line.data is None or line.data.strip():
                yield _row(line)

    def column(self, rows: Sequence[TextRow], name: str, kind: pa.DataType) -> Column:
        values = [None if row.values is None else row.values.get(name) for row in rows]
        try:
            return Column(pa.array(values, kind))
        # values of other types than the column's, and halves of surrogate pairs
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return _cell_by_cell(name, values, kind)


def _row(line: Line) -> TextRow:
    if line.data is None:
        return TextRow(line.number, line.byte, None, f"it is longer than {settings().max_row_bytes:,} bytes")
    fault = None
    try:
        text = line.data.decode("utf-8")
    except UnicodeDecodeError:
        text, fault = line.data.decode("utf-8", "replace"), "it is not valid UTF-8"
    try:
        found = _decode(text)
    except (ValueError, RecursionError) as error:
        return TextRow(line.number, line.byte, None, f"it is not valid JSON ({_reason(error)})")
    if not isinstance(found, dict):
        return TextRow(line.number, line.byte, None, f"it is JSON, but no object ({_kind(found)})")
    if len(text) > MAX_DEPTH and text.count("[") + text.count("{") > MAX_DEPTH and not _is_shallow(found, MAX_DEPTH):
        return TextRow(line.number, line.byte, None, f"it is nested more than {MAX_DEPTH} levels deep")
    return TextRow(line.number, line.byte, found, fault)


def _decode(text: str) -> Any:
    """The one value of a line. Raises ValueError, RecursionError."""
    text = text.strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except StopIteration as stop:
        raise ValueError(f"no value at character {stop.value + 1}") from None
    if end != len(text):
        raise ValueError(f"it goes on behind its value, at character {end + 1}")
    return value


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _is_shallow(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_is_shallow(item, depth - 1) for item in inner)


def _cell_by_cell(name: str, values: list[Any], kind: pa.DataType) -> Column:
    cells: list[Any] = []
    faults: dict[int, str] = {}
    for index, value in enumerate(values):
        cell, fault = _cell(name, value, kind)
        cells.append(cell)
        if fault is not None:
            faults[index] = fault
    return Column(pa.array(cells, kind), faults)


def _cell(name: str, value: Any, kind: pa.DataType) -> tuple[Any, str | None]:
    if value is None:
        return None, None
    if is_text(kind):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return repaired_text(name, text)
    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None, f"{name} is {str(value)[:40]!r}, which is no {kind}"
    return value, None


def repaired_text(name: str, text: str) -> tuple[str, str | None]:
    """The text with U+FFFD for what is not Unicode, and the fault if there was any."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        clean = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return clean, f"{name} is not valid Unicode (it holds half of a surrogate pair)"
    return text, None
