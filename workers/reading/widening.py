"""Types that differ without harm: one that holds the values of both, or none."""

from __future__ import annotations

import pyarrow as pa

from parquetry.workers.reading.parquet_rows import is_bytes
from parquetry.workers.reading.text_rows import is_text

_UNITS = ("s", "ms", "us", "ns")
_SIGNED = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
#: digits an integer of each type may have
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}


def widened(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type for values of both; None where only the user can say what is meant.

    Numbers beyond 2^53 in a column that is float elsewhere, and times beyond the range of a finer unit, are found when
    they are read, cell by cell.
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    for narrow, wide in ((one, other), (other, one)):
        if (plain := _stored(narrow)) is not None:
            return widened(plain, wide)
    return next((found for rule in _RULES if (found := rule(one, other)) is not None), None)


def _stored(kind: pa.DataType) -> pa.DataType | None:
    """What lies below a dictionary or an extension type."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else None


def _bytes(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if is_text(one) and is_text(other):
        return pa.string()
    return pa.binary() if is_bytes(one) and is_bytes(other) and not (is_text(one) or is_text(other)) else None


def _integers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not (pa.types.is_integer(one) and pa.types.is_integer(other)):
        return None
    signed = pa.types.is_signed_integer
    if signed(one) == signed(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    bits = max(kind.bit_width if signed(kind) else 2 * kind.bit_width for kind in (one, other))
    return _SIGNED.get(bits, pa.decimal128(20, 0))


def _floats(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    kinds = (one, other)
    if not all(pa.types.is_floating(kind) or pa.types.is_integer(kind) for kind in kinds):
        return None
    if all(pa.types.is_floating(kind) for kind in kinds):
        return max(kinds, key=lambda kind: kind.bit_width)
    return pa.float64()


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if not (pa.types.is_decimal(one) or pa.types.is_decimal(other)):
        return None
    sizes = [_size(kind) for kind in (one, other)]
    if None in sizes:
        return None
    scale = max(size[1] for size in sizes if size)
    precision = scale + max(size[0] - size[1] for size in sizes if size)
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _size(kind: pa.DataType) -> tuple[int, int] | None:
    """Precision and scale of a decimal, or of one that holds the integers of a type."""
    if pa.types.is_decimal(kind):
        return kind.precision, kind.scale
    return (_DIGITS[kind.bit_width], 0) if pa.types.is_integer(kind) else None


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other):
        zones = {one.tz, other.tz}
        zone = one.tz if len(zones) == 1 else "UTC"
        return None if None in zones and len(zones) > 1 else pa.timestamp(_finer(one, other), zone)
    if pa.types.is_duration(one) and pa.types.is_duration(other):
        return pa.duration(_finer(one, other))
    if pa.types.is_time(one) and pa.types.is_time(other):
        unit = _finer(one, other)
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return pa.date32() if pa.types.is_date(one) and pa.types.is_date(other) else None


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return max(one.unit, other.unit, key=_UNITS.index)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of whatever layout."""
    return any(is_of(kind) for is_of in _LIST_TYPES)


_LIST_TYPES = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list,
    pa.types.is_list_view, pa.types.is_large_list_view,
)  # fmt: skip


def without_views(kind: pa.DataType) -> pa.DataType:
    """The type with plain lists for views of lists, at any depth: some readers refuse a whole file for one."""
    if pa.types.is_list_view(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list_view(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return pa.struct([_plain_field(field) for field in kind]) if pa.types.is_struct(kind) else kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(without_views(field.type))


def _nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_map(one) and pa.types.is_map(other):
        key, item = widened(one.key_type, other.key_type), widened(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if is_list(one) and is_list(other):
        inner = widened(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    return _structs(one, other) if pa.types.is_struct(one) and pa.types.is_struct(other) else None


def _structs(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    """The fields of both; a row has null in those that its file lacks."""
    fields: dict[str, pa.DataType | None] = {field.name: field.type for field in one}
    for field in other:
        known = fields.get(field.name)
        fields[field.name] = field.type if known is None else widened(known, field.type)
    if None in fields.values():
        return None
    return pa.struct(list(fields.items()))


_RULES = (_bytes, _integers, _floats, _decimals, _times, _nested)
