"""Text that is not UTF-8, which Arrow hands on unread and other readers refuse the whole file for."""

from __future__ import annotations

import pyarrow as pa

from parquetry.workers.reading.text_rows import is_text
from parquetry.workers.reading.widening import is_list


def repaired(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """The column with U+FFFD for every byte that is not UTF-8, at any depth, and the rows that had one."""
    if not _holds_text(column.type) or is_valid(column):
        return column, []
    if pa.types.is_dictionary(column.type):
        return _repaired_dictionary(column)
    # cells of their own: a slice of a list still holds its neighbours' values
    cells = [column.take(pa.array([row])) for row in range(len(column))]
    broken = [row for row, cell in enumerate(cells) if not is_valid(cell)]
    clean = dict(zip(broken, [_clean(cells[row]) for row in broken], strict=True))
    return pa.concat_arrays([clean.get(row, cell) for row, cell in enumerate(cells)]), broken


def _repaired_dictionary(column: pa.DictionaryArray) -> tuple[pa.Array, list[int]]:
    dictionary, broken = repaired(column.dictionary)
    codes = set(broken)
    rows = [row for row, code in enumerate(column.indices.to_pylist()) if code in codes]
    return pa.DictionaryArray.from_arrays(column.indices, dictionary), rows


def is_valid(column: pa.Array) -> bool:
    """Whether all text in it is UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _holds_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return is_text(kind) or any(_holds_text(kind.field(place).type) for place in range(kind.num_fields))


def _clean(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return kind.wrap_array(_clean(array.storage))
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(array.indices, _clean(array.dictionary))
    if is_text(kind):
        return _clean_text(array)
    if pa.types.is_struct(kind):
        children = [_clean(array.field(place)) for place in range(len(kind))]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    return _clean_lists(array) if is_list(kind) or pa.types.is_map(kind) else array


def _clean_text(array: pa.Array) -> pa.Array:
    # a view may be checked on the way, a cast of bytes is not
    raw = array.cast(pa.binary()) if not pa.types.is_large_string(array.type) else array.cast(pa.large_binary())
    texts = [None if value is None else value.decode("utf-8", "replace") for value in raw.to_pylist()]
    return pa.array(texts, array.type)


def _clean_lists(array: pa.Array) -> pa.Array:
    """One list or map, rebuilt around its cleaned values."""
    kind = array.type
    if array.null_count:
        return array
    if pa.types.is_map(kind):
        size = len(array.keys)
        return pa.MapArray.from_arrays([0, size], _clean(array.keys), _clean(array.items), type=kind)
    values = _clean(array.flatten())
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    return pa.ListArray.from_arrays([0, len(values)], values).cast(kind)
