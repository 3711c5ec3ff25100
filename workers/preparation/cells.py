"""Plain Python values of Arrow columns, cell by cell: a bad cell is that row's error, not the shard's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa

from parquetry.schemas.errors import RowError

P = ParamSpec("P")
T = TypeVar("T")


def cells(name: str, column: pa.Array) -> list[Any]:
    """Values of a column as str, int, float, bool, None, or lists and dicts of them.

    A cell that is no such value, for example bytes that are not UTF-8, becomes a RowError in its place.
    """
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_one(name, column, index) for index in range(len(column))]
    else:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return values
    return [_plain_or_error(name, value) for value in values]


def _one(name: str, column: pa.Array, index: int) -> Any:
    try:
        return column[index].as_py()
    except UnicodeDecodeError:
        return RowError(reason=f"{name} is not valid UTF-8")


def _plain_or_error(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | RowError):
        return value
    try:
        return _plain(name, value)
    except RowError as error:
        return error


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return _decode(name, value)
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise RowError(reason=f"{name} holds a {type(value).__name__}, which is not text or a number")


def _decode(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise RowError(reason=f"{name} is not valid UTF-8") from None


def or_error(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | RowError:
    """What the function makes of a row or a cell, or the RowError it raises."""
    try:
        return function(*args, **kwargs)
    except RowError as error:
        return error


def text_of(name: str, value: Any) -> str:
    """The cell as text to encode: null is refused, numbers are written out. Raises RowError."""
    if isinstance(value, RowError):
        raise value
    if value is None:
        raise RowError(reason=f"{name} is null")
    if isinstance(value, list | dict):
        raise RowError(reason=f"{name} is not text")
    return value if isinstance(value, str) else str(value)
