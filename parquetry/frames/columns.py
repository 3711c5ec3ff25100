"""Columns of Python values as Arrow columns, or the sentence that says why one cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from parquetry.frames.frame import FrameColumnError


def arrow_column(name: str, values: Any, *, remedy: str) -> pa.Array | pa.ChunkedArray:
    """Values of one kind, None and NaN among them; `remedy` says how they become texts. Raises FrameColumnError."""
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        reason = _mixture(values) or str(error).partition("\n")[0].rstrip(".")
        raise FrameColumnError(column=name, reason=f"{reason}; make it texts: {remedy}") from None
    require_plain(name, column.type, remedy=remedy)
    return column


def require_plain(name: str, kind: pa.DataType, *, remedy: str) -> None:
    """Raise FrameColumnError for a type whose values only its own library can read."""
    if isinstance(kind, pa.ExtensionType) or (
        isinstance(kind, pa.BaseExtensionType) and kind.extension_name != "arrow.json"
    ):
        raise FrameColumnError(column=name, reason=f"it is {kind}, which no prompt can show; make it texts: {remedy}")


def _mixture(values: Iterable[Any]) -> str:
    """Two kinds that are among the values, and where; empty where there is one."""
    first: tuple[int, type] | None = None
    for row, value in enumerate(values):
        if value is None or value != value:
            continue
        if first is not None and type(value) is not first[1]:
            return f"it holds {first[1].__name__} (row {first[0]}) and {type(value).__name__} (row {row})"
        first = first or (row, type(value))
    return ""
