"""Types of text columns, from every row of a file: no value changes, whatever rows come late.

Types are joined block by block. Two stand for what is known of integers so far: `int32` for those a double holds
exactly, `int64` for larger ones; `settled` makes both int64. Text joined with anything is text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from parquetry.workers.reading.csv_records import CsvRecords, nulls
from parquetry.workers.reading.text_rows import TextRow

SMALL, LARGE, HUGE, TEXT = pa.int32(), pa.int64(), pa.decimal128(38, 0), pa.string()
_INTEGERS = (SMALL, LARGE, HUGE)
#: the largest integer up to which a double holds every one
EXACT = 2**53
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
#: digits that every double keeps
_SAFE_DIGITS = 15
#: keys of one nested object; more of them are data, and the column is kept as JSON text
_MAX_FIELDS = 512


def json_types(rows: Sequence[dict[str, Any]]) -> dict[str, pa.DataType]:
    """The type of each key in some rows."""
    try:
        table = pa.array(rows)
        if _has_flags_as_numbers(rows, table.type):
            raise TypeError
        return {field.name: narrowed(table.field(place)) for place, field in enumerate(table.type)}
    # values of several types in one column, or none that Arrow has
    except (pa.ArrowException, TypeError, ValueError, OverflowError, IndexError):
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: _json_type([row.get(name) for row in rows]) for name in names}


def _json_type(values: list[Any]) -> pa.DataType:
    try:
        array = pa.array(values)
        return TEXT if _has_flags_as_numbers(values, array.type) else narrowed(array)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        present = [value for value in values if value is not None]
        fits = all(type(value) is int and abs(value) < 10**38 for value in present)
        return HUGE if fits else TEXT


def _has_flags_as_numbers(values: Iterable[Any], kind: pa.DataType) -> bool:
    """Whether true or false stands among the numbers of some values, where Arrow makes 1.0 or 0.0 of it."""
    present = (value for value in values if value is not None)
    if pa.types.is_float64(kind):
        return any(value is True or value is False for value in present)
    if pa.types.is_list(kind):
        return _has_flags_as_numbers(chain.from_iterable(present), kind.value_type)
    if not pa.types.is_struct(kind):
        return False
    rows = list(present)
    return any(_has_flags_as_numbers((row.get(f.name) for row in rows), f.type) for f in kind if _has_doubles(f.type))


def _has_doubles(kind: pa.DataType) -> bool:
    return pa.types.is_float64(kind) or any(_has_doubles(kind.field(place).type) for place in range(kind.num_fields))


def csv_types(file: CsvRecords, rows: Sequence[TextRow]) -> dict[str, pa.DataType]:
    """The type of each column in some records."""
    return {name: _csv_type(file.texts(rows, place)[0]) for place, name in enumerate(file.header)}


def _csv_type(texts: pa.Array) -> pa.DataType:
    texts = texts.drop_null()
    texts = texts.filter(pc.invert(pc.is_in(texts, nulls())))
    if not len(texts):
        return pa.null()
    if pc.all(pc.match_substring_regex(texts, _INTEGER)).as_py():
        return narrowed(texts.cast(pa.int64()))
    if pc.all(pc.match_substring_regex(texts, _NUMBER)).as_py() and _all_exact(texts):
        return pa.float64()
    return TEXT


def _all_exact(texts: pa.Array) -> bool:
    """Whether a double holds every number as written: up to 15 digits, or as many as Python writes for it."""
    numbers = texts.cast(pa.float64())
    lost = pc.and_(pc.equal(numbers, 0), pc.match_substring_regex(texts, "^[^eE]*[1-9]"))
    if not pc.all(pc.is_finite(numbers)).as_py() or pc.any(lost).as_py():
        return False
    digits = pc.replace_substring_regex(texts, r"[eE].*$|[-.]", "")
    long = texts.filter(pc.greater(pc.utf8_length(digits), _SAFE_DIGITS)).to_pylist()
    return all(repr(float(text)) == text for text in long)


def narrowed(array: pa.Array) -> pa.DataType:
    """The array's type, with int32 for integers that a double holds exactly, at any depth."""
    kind = array.type
    if pa.types.is_int64(kind):
        bounds = pc.min_max(array).as_py()
        return SMALL if max(abs(bounds["min"] or 0), abs(bounds["max"] or 0)) <= EXACT else LARGE
    if pa.types.is_list(kind):
        return pa.list_(narrowed(array.flatten()))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, narrowed(array.field(place))) for place, field in enumerate(kind)])
    return kind


def joined(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """A type for the values of both; text where there is no other."""
    found = _joined(one, other)
    return TEXT if found is None else found


def _joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if one in _INTEGERS and other in _INTEGERS:
        return max(one, other, key=_INTEGERS.index)
    if pa.float64() in (one, other) and SMALL in (one, other):
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = _joined(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _joined_structs(one, other)
    return None


def _joined_structs(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    fields: dict[str, pa.DataType] = {field.name: field.type for field in one}
    for field in other:
        known = fields.get(field.name, pa.null())
        found = _joined(known, field.type)
        if found is None:
            return None
        fields[field.name] = found
    return pa.struct(list(fields.items()))


def settled(kind: pa.DataType) -> pa.DataType:
    """The type that a column is given at the end; one that never had a value, or has none in Parquet, is text."""
    return _settled(kind) or TEXT


def _settled(kind: pa.DataType) -> pa.DataType | None:
    if kind == SMALL:
        return LARGE
    if pa.types.is_null(kind):
        return TEXT
    if pa.types.is_list(kind):
        inner = _settled(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(kind):
        fields = [(field.name, _settled(field.type)) for field in kind]
        # Parquet has no object without keys
        whole = 0 < len(fields) <= _MAX_FIELDS and all(found is not None for _, found in fields)
        return pa.struct(fields) if whole else None
    return kind
