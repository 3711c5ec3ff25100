"""What one input file holds: columns, row groups and bytes, from its footer alone where it has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.producers.listing import FoundFile
from parquetry.schemas.errors import UnreadableFileError
from parquetry.schemas.formats import open_text
from parquetry.schemas.storage.opening import open_storage


@dataclass(frozen=True)
class FileFacts:
    """What one input file holds."""

    file: FoundFile
    #: the columns of the file, then its hive partition columns as strings
    schema: pa.Schema
    own_columns: frozenset[str]
    #: rows of each row group in order; one for a text file
    row_group_rows: list[int]
    #: uncompressed bytes of the columns that are read
    data_bytes: int

    @property
    def num_rows(self) -> int:
        return sum(self.row_group_rows)

    @property
    def partitions(self) -> dict[str, str]:
        """The path's partition columns, less those the file holds itself."""
        return {name: value for name, value in self.file.partitions.items() if name not in self.own_columns}


def read_facts(file: FoundFile, columns: Collection[str] | None) -> FileFacts:
    """Look into one file; `columns` are those that will be read. Raises UnreadableFileError, StorageError."""
    try:
        with open_storage(file.location.parent).open(file.location.name) as stream:
            facts = _parquet_facts if file.format == "parquet" else _text_facts
            return facts(file, stream, columns)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UnreadableFileError(path=file.path, reason=_reason(error)) from error


def _parquet_facts(file: FoundFile, stream: BinaryIO, columns: Collection[str] | None) -> FileFacts:
    with pq.ParquetFile(stream) as parquet:
        metadata, own = parquet.metadata, parquet.schema_arrow
    row_groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    data_bytes = sum(_row_group_bytes(row_group, columns) for row_group in row_groups)
    return _facts(file, own, [row_group.num_rows for row_group in row_groups], data_bytes)


def _row_group_bytes(row_group: pq.RowGroupMetaData, columns: Collection[str] | None) -> int:
    column_chunks = (row_group.column(index) for index in range(row_group.num_columns))
    read = (c for c in column_chunks if columns is None or c.path_in_schema.partition(".")[0] in columns)
    return sum(column_chunk.total_uncompressed_size for column_chunk in read)


def _text_facts(file: FoundFile, stream: BinaryIO, columns: Collection[str] | None) -> FileFacts:
    rows = data_bytes = 0
    with open_text(stream, file.format) as reader:
        for batch in reader:
            rows += batch.num_rows
            data_bytes += _batch_bytes(batch, columns)
        return _facts(file, reader.schema, [rows], data_bytes)


def _batch_bytes(batch: pa.RecordBatch, columns: Collection[str] | None) -> int:
    pairs = zip(batch.schema.names, batch.columns, strict=True)
    return sum(column.nbytes for name, column in pairs if columns is None or name in columns)


def _facts(file: FoundFile, schema: pa.Schema, row_group_rows: list[int], data_bytes: int) -> FileFacts:
    twice = [name for name, times in Counter(schema.names).items() if times > 1]
    if twice:
        raise UnreadableFileError(path=file.path, reason=f"it has more than one column named {twice[0]!r}")
    from_path = [pa.field(name, pa.string()) for name in file.partitions if name not in schema.names]
    full = pa.schema([*(field.remove_metadata() for field in schema), *from_path])
    return FileFacts(file, full, frozenset(schema.names), row_group_rows, data_bytes)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
