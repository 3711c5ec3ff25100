"""Types whose values Python cannot hold, as text: nanoseconds, years beyond 9999, UUIDs and the like."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from parquetry.workers.reading.lists import own_values
from parquetry.workers.reading.widening import is_list

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UUID = "arrow.uuid"


def with_plain_text(array: pa.Array) -> pa.Array:
    """The array with ISO 8601 text in place of every date, time and interval, at any depth, and of UUIDs.

    The text is what Python's `isoformat` gives, with nine digits where there are nanoseconds.
    """
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name != "arrow.bool8":
        return _uuids(array) if kind.extension_name == _UUID else with_plain_text(array.storage)
    if pa.types.is_dictionary(kind) and not pa.types.is_string(kind.value_type):
        return with_plain_text(array.dictionary_decode())
    if pa.types.is_temporal(kind):
        return _texts(array)
    if pa.types.is_struct(kind):
        children = [with_plain_text(array.field(place)) for place in range(len(kind))]
        return pa.StructArray.from_arrays(children, names=[field.name for field in kind], mask=array.is_null())
    if pa.types.is_map(kind):
        offsets, entries = own_values(array)
        keys, items = (with_plain_text(entries.field(place)) for place in (0, 1))
        return pa.MapArray.from_arrays(offsets, keys, items, mask=array.is_null())
    return _lists(array) if is_list(kind) else array


def _lists(array: pa.Array) -> pa.Array:
    kind = array.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        array = array.cast(pa.large_list(kind.value_type))
    offsets, values = own_values(array)
    make = pa.ListArray if pa.types.is_list(array.type) else pa.LargeListArray
    return make.from_arrays(offsets, with_plain_text(values), mask=array.is_null())


def _uuids(array: pa.Array) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())


def _texts(array: pa.Array) -> pa.Array:
    write = _writer(array.type)
    if write is None:
        # intervals of months, days and nanoseconds
        return pa.array([None if value is None else _interval(*value) for value in array.to_pylist()], pa.string())
    width = pa.int32() if array.type.bit_width == 32 else pa.int64()
    numbers = array.view(width).to_pylist()
    return pa.array([None if number is None else write(number) for number in numbers], pa.string())


def _writer(kind: pa.DataType) -> Callable[[int], str] | None:
    if pa.types.is_date(kind):
        per_day = 1 if pa.types.is_date32(kind) else _DAY * 1000
        return lambda number: str(np.datetime64(number // per_day, "D"))
    if not (pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind)):
        return None
    per_second = _PER_SECOND[kind.unit]
    if pa.types.is_duration(kind):
        return lambda number: _duration(*divmod(number * (10**9 // per_second), 10**9))
    zone = _zone(kind.tz) if pa.types.is_timestamp(kind) and kind.tz else None
    start = 11 if pa.types.is_time(kind) else 0

    def write(number: int) -> str:
        seconds, fraction = divmod(number, per_second)
        return _moment(seconds, fraction * (10**9 // per_second), zone)[start:]

    return write


def _moment(seconds: int, nanoseconds: int, zone: tzinfo | None) -> str:
    digits = _fraction(nanoseconds)
    try:
        moment = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone or UTC)
    except (OverflowError, ValueError):
        # beyond Python's years, where no zone has rules either
        return f"{np.datetime64(seconds, 's')}{digits}{'+00:00' if zone else ''}"
    text = moment.replace(tzinfo=None).isoformat(timespec="seconds")
    return f"{text}{digits}{moment.isoformat(timespec='seconds')[19:] if zone else ''}"


def _fraction(nanoseconds: int) -> str:
    if not nanoseconds:
        return ""
    return f".{nanoseconds:09}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06}"


def _duration(seconds: int, nanoseconds: int) -> str:
    """As Python writes it: 1 day, 0:00:01.500000."""
    try:
        return f"{timedelta(seconds=seconds)}{_fraction(nanoseconds)}"
    except OverflowError:
        return f"{seconds} seconds{_fraction(nanoseconds)}"


def _interval(months: int, days: int, nanoseconds: int) -> str:
    return f"{months} months, {days} days, {_duration(*divmod(nanoseconds, 10**9))}"


@lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    sign = {"+": 1, "-": -1}.get(name[0])
    if sign is not None:
        hours, minutes = name[1:].replace(":", "").ljust(4, "0")[:2], name[1:].replace(":", "").ljust(4, "0")[2:4]
        return timezone(sign * timedelta(hours=int(hours), minutes=int(minutes)))
    try:
        return ZoneInfo(name)
    # what no zone of this machine is called
    except (ValueError, OSError, KeyError):
        return UTC
