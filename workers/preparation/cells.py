"""Plain Python values of Arrow columns, cell by cell: a bad cell is that row's error, not the shard's."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

from parquetry.schemas.errors import ParquetryError, RowError
from parquetry.workers.reading.plain_text import with_plain_text

P = ParamSpec("P")
T = TypeVar("T")


def cells(name: str, column: pa.Array) -> list[Any]:
    """Values of a column as str, int, float, bool, None, or lists and dicts of them; dates and times as ISO text.

    A cell that is no such value, for example bytes that are not UTF-8, becomes a RowError in its place.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            return [_one(name, column, index) for index in range(len(column))]
    try:
        values = with_plain_text(column).to_pylist(maps_as_pydicts="strict")
    # bytes, or keys of a map, that some cell has and Python does not take; which cell is found out one by one
    except Exception:  # noqa: BLE001
        values = [_one(name, column, index) for index in range(len(column))]
    return [_plain_or_error(name, value) for value in values]


def _one(name: str, column: pa.Array, index: int) -> Any:
    try:
        return with_plain_text(column.take(pa.array([index])))[0].as_py(maps_as_pydicts="strict")
    except UnicodeDecodeError:
        return RowError(reason=f"{name} is not valid UTF-8")
    # libraries raise what they like for a value they cannot represent
    except Exception as error:  # noqa: BLE001
        return RowError(reason=f"{name} cannot be read: {_sentence(error)}")


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
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise RowError(reason=f"{name} holds a {type(value).__name__}, which is not text or a number")


def _decode(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise RowError(reason=f"{name} is not valid UTF-8") from None


def or_error(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | RowError:
    """What the function makes of a row or a cell, or what is wrong with it: its own RowError or a library's error."""
    try:
        return function(*args, **kwargs)
    except RowError as error:
        return error
    except BaseException as error:
        if not is_of_the_row(error):
            raise
        return RowError(reason=_sentence(error))


def is_of_the_row(error: BaseException) -> bool:
    """Whether an error that came while one row was worked on is that row's fault, and no reason to stop.

    What Rust libraries raise when they panic is no Exception.
    """
    if type(error).__name__ == "PanicException":
        return True
    return isinstance(error, Exception) and not isinstance(error, ParquetryError | MemoryError)


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def text_of(name: str, value: Any) -> str:
    """The cell as text to encode: null is refused, numbers are written out. Raises RowError."""
    if isinstance(value, RowError):
        raise value
    if value is None:
        raise RowError(reason=f"{name} is null")
    if isinstance(value, list | dict):
        raise RowError(reason=f"{name} is not text")
    return value if isinstance(value, str) else str(value)
