"""Rows of a Parquet file, in batches that stay small however small the file makes them look.

A cell of megabytes costs nothing in a dictionary page, however many rows have it. What a batch may grow to is told from
the footer and from the dictionaries themselves, before its cells are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

#: rows and bytes of one batch: enough that what a batch costs besides its rows does not count, few enough that answers
#: are taken in between
BATCH_ROWS = 1024
#: what a batch may take where rows are large
BATCH_BYTES = 64 << 20
#: a dictionary whose longest value is below this cannot blow a batch up
_LONG_VALUE = BATCH_BYTES // BATCH_ROWS
#: least bytes of a decoded value, null or not
_VALUE_BYTES = 4

_BYTES_TYPES = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
)  # fmt: skip


def read_parquet(stream: BinaryIO, names: Sequence[str], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows [start, stop) with those of the columns that the file has, or with its first column if it has none.

    Columns that repeat one long text come dictionary-encoded. Raises pa.ArrowException, OSError.
    """
    with _opened(stream) as parquet:
        groups = groups_between(parquet.metadata, start, stop)
        if not groups:
            return
        known = set(parquet.schema_arrow.names)
        # without any column, rows could not be counted
        columns = [name for name in names if name in known] or parquet.schema_arrow.names[:1]
        numbers = [number for number, _ in groups]
        rows = min(BATCH_ROWS, max(1, BATCH_BYTES // max(_row_bytes(parquet.metadata, numbers, columns), 1)))
        encoded = _long_dictionaries(stream, parquet.metadata, numbers, columns)
        first = groups[0][1]
        batches = _batches(stream, parquet, encoded, numbers, columns, rows)
        yield from _window(batches, start - first, stop - first)


def _opened(stream: BinaryIO, **options: Any) -> pq.ParquetFile:
    # a page that is not what its writer wrote is refused, where the writer left a checksum
    return pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True, **options)


def _batches(
    stream: BinaryIO,
    parquet: pq.ParquetFile,
    encoded: list[str],
    groups: list[int],
    columns: list[str],
    rows: int,
) -> Iterator[pa.RecordBatch]:
    if encoded:
        parquet = _opened(stream, metadata=parquet.metadata, read_dictionary=encoded)
    return parquet.iter_batches(rows, groups, columns=columns, use_threads=False)


def groups_between(metadata: pq.FileMetaData, start: int, stop: int) -> list[tuple[int, int]]:
    """Row groups that hold some of these rows, each with the number of its first row."""
    sizes = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    bounds = enumerate(pairwise(accumulate(sizes, initial=0)))
    return [(index, first) for index, (first, end) in bounds if first < stop and end > start]


def _row_bytes(metadata: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str]) -> int:
    """Mean bytes of a row in the group with the largest rows, as far as the footer tells."""
    return max(
        sum(decoded_bytes(chunk) for chunk in chunks(metadata, group, columns))
        // max(metadata.row_group(group).num_rows, 1)
        for group in groups
    )


def decoded_bytes(chunk: pq.ColumnChunkMetaData) -> int:
    """Least bytes of a column chunk in memory: runs of one value are written once, but every value takes some."""
    return max(chunk.total_uncompressed_size, chunk.num_values * _VALUE_BYTES)


def chunks(metadata: pq.FileMetaData, group: int, columns: Sequence[str]) -> Iterator[pq.ColumnChunkMetaData]:
    """The chunks of these columns in one row group, those of nested columns included."""
    wanted, row_group = set(columns), metadata.row_group(group)
    for leaf in leaves(metadata, wanted):
        yield row_group.column(leaf)


def leaves(metadata: pq.FileMetaData, wanted: set[str]) -> list[int]:
    """Numbers of the leaf columns of some columns."""
    paths = (metadata.schema.column(index).path for index in range(metadata.num_columns))
    # a name may have dots of its own
    return [i for i, path in enumerate(paths) if path in wanted or path.partition(".")[0] in wanted]


def _long_dictionaries(
    stream: BinaryIO, metadata: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str]
) -> list[str]:
    """Paths of leaf columns that have a long value in a dictionary."""
    found: set[str] = set()
    for group in groups:
        suspects = [chunk.path_in_schema for chunk in chunks(metadata, group, columns) if _may_blow_up(chunk)]
        if suspects:
            parquet = _opened(stream, metadata=metadata, read_dictionary=suspects)
            batch = next(parquet.iter_batches(1, [group], columns=suspects, use_threads=False), None)
            found |= {suspects[0]} if batch is None else _long(batch, suspects)
    return sorted(found)


def _may_blow_up(chunk: pq.ColumnChunkMetaData) -> bool:
    has_dictionary = not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}.isdisjoint(chunk.encodings)
    return has_dictionary and chunk.physical_type == "BYTE_ARRAY" and chunk.total_uncompressed_size > _LONG_VALUE


def _long(batch: pa.RecordBatch, paths: Sequence[str]) -> set[str]:
    tops = {path: path.partition(".")[0] if path not in batch.schema.names else path for path in paths}
    return {path for path, top in tops.items() if longest_in_dictionaries(batch[top]) > _LONG_VALUE}


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are runs of bytes, text or not."""
    return any(is_of(kind) for is_of in _BYTES_TYPES)


def longest_in_dictionaries(array: pa.Array) -> int:
    """Bytes of the longest value in any dictionary of a column, at any depth; 0 where there is none."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not is_bytes(kind.value_type):
            return 0
        return pc.max(pc.binary_length(array.dictionary)).as_py() or 0
    if pa.types.is_struct(kind):
        return max((longest_in_dictionaries(array.field(place)) for place in range(len(kind))), default=0)
    if pa.types.is_map(kind):
        return max(longest_in_dictionaries(array.keys), longest_in_dictionaries(array.items))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return longest_in_dictionaries(array.values)
    return 0


def _window(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows [start, stop) of consecutive batches."""
    position = 0
    for batch in batches:
        first, last = max(start - position, 0), min(stop - position, batch.num_rows)
        if first < last:
            yield batch.slice(first, last - first)
        position += batch.num_rows
        if position >= stop:
            return
