"""The rows of one shard: only its row groups, only the columns the job needs, and only of unchanged files."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from itertools import accumulate, pairwise
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.errors import (
    InputChangedError,
    MissingColumnError,
    ParquetryError,
    StorageError,
    UnreadableFileError,
    suggestion,
)
from parquetry.schemas.formats import Format, format_of, open_text
from parquetry.schemas.job import JobSpec
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile, Shard, Slice
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.preparation.template import Template

#: rows and bytes of one batch: enough that what a batch costs besides its rows does not count, few enough that answers
#: are taken in between
BATCH_ROWS = 1024
_BATCH_BYTES = 1 << 20


def used_columns(spec: JobSpec) -> dict[str, str]:
    """Columns whose values reach the model, each with the key of the spec that names it."""
    used = dict(spec.needed_columns)
    if spec.task == "generate" and spec.prompt.template is not None:
        used.update(dict.fromkeys(sorted(Template.parse(spec.prompt.template).variables), "prompt.template"))
    return used


def kept_columns(spec: JobSpec, names: Collection[str]) -> list[str]:
    """Input columns the output carries, of an input that has the columns `names`."""
    if spec.output.keep is not None:
        return list(spec.output.keep)
    return list(names if spec.input.columns is None else spec.input.columns)


def input_schema(record: JobRecord) -> pa.Schema:
    """The columns a shard is read with, kept ones first: the same for every shard, as the job's first file has them.

    Raises MissingColumnError.
    """
    with _opened(record.shard_plan.files[0]) as file:
        schema = _file_schema(record.shard_plan.files[0], file)
    spec = record.spec
    wanted = dict.fromkeys(kept_columns(spec, schema.names), "output.keep") | used_columns(spec)
    for name, where in wanted.items():
        if name not in schema.names:
            near = suggestion(name, schema.names)
            raise MissingColumnError(where=where, column=name, suggestion=near, columns=", ".join(schema.names))
    return pa.schema([schema.field(name) for name in wanted])


def _file_schema(file: InputFile, stream: BinaryIO) -> pa.Schema:
    kind = _format_of(file)
    if kind == "parquet":
        with pq.ParquetFile(stream) as parquet:
            own = parquet.schema_arrow
    else:
        with open_text(stream, kind) as reader:
            own = reader.schema
    added = [pa.field(name, pa.string()) for name in file.partitions if name not in own.names]
    return pa.schema([pa.field(field.name, field.type) for field in own] + added)


def _format_of(file: InputFile) -> Format:
    kind = format_of(file.path)
    assert kind is not None, "an input lists no other files"
    return kind


def read_shard(record: JobRecord, shard: Shard, schema: pa.Schema | None = None) -> Iterator[pa.RecordBatch]:
    """The shard's rows in order, in batches of at most BATCH_ROWS with the schema of `input_schema`.

    Raises InputChangedError, UnreadableFileError, MissingColumnError and StorageError.
    """
    schema = input_schema(record) if schema is None else schema
    for file_slice in shard.slices:
        with _opened(file_slice.file) as file:
            for batch in _read_slice(file_slice, file, schema):
                yield from _small(_conform(batch, file_slice.file, schema))


def _small(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch cut into several of about _BATCH_BYTES: some rows hold whole books."""
    rows = max(1, min(BATCH_ROWS, batch.num_rows * _BATCH_BYTES // max(batch.nbytes, 1)))
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def cut_batches(batches: Iterator[pa.RecordBatch], num_rows: int | None) -> Iterator[pa.RecordBatch]:
    """The batches cut to at most `num_rows` rows each; None leaves them whole."""
    for batch in batches:
        step = num_rows or batch.num_rows
        yield from (batch.slice(start, step) for start in range(0, batch.num_rows, step))


@contextmanager
def _opened(file: InputFile) -> Iterator[BinaryIO]:
    """The file as it was at submit, before and after."""
    location = Location.parse(file.path)
    storage = open_storage(location.parent)
    _require_unchanged(storage, location.name, file)
    try:
        with closing(storage.open(location.name)) as stream:
            yield stream
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        _require_unchanged(storage, location.name, file)
        raise _read_error(file, error) from error
    _require_unchanged(storage, location.name, file)


def _read_error(file: InputFile, error: Exception) -> ParquetryError:
    """Arrow's complaints about content carry no error number; those of the system do, and may pass."""
    reason = str(error).strip().partition("\n")[0][:300].rstrip(".")
    if isinstance(error, OSError) and error.errno is not None:
        return StorageError(operation="reading", path=file.path, reason=reason)
    return UnreadableFileError(path=file.path, reason=reason)


def _require_unchanged(storage: Storage, name: str, file: InputFile) -> None:
    entry = storage.head(name)
    if entry is None or (entry.size, entry.etag) != (file.size, file.etag):
        raise InputChangedError(path=file.path)


def _read_slice(file_slice: Slice, file: BinaryIO, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    kind = _format_of(file_slice.file)
    if kind == "parquet":
        yield from _read_parquet(file_slice, file, schema)
        return
    # lines have no index, so those before the slice are parsed and skipped
    with open_text(file, kind) as reader:
        yield from _cut(iter(reader), file_slice.start, file_slice.stop)


def _read_parquet(file_slice: Slice, file: BinaryIO, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file, pre_buffer=False) as parquet:
        metadata = parquet.metadata
        sizes = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        bounds = list(enumerate(pairwise(accumulate(sizes, initial=0))))
        row_groups = [
            (index, start) for index, (start, stop) in bounds if start < file_slice.stop and stop > file_slice.start
        ]
        if not row_groups:
            return
        first = row_groups[0][1]
        own = [name for name in schema.names if name in parquet.schema_arrow.names]
        # without any column, rows could not be counted
        columns = own or parquet.schema_arrow.names[:1]
        batches = parquet.iter_batches(
            BATCH_ROWS, [index for index, _ in row_groups], columns=columns, use_threads=False
        )
        yield from _cut(batches, file_slice.start - first, file_slice.stop - first)


def _cut(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Rows [start, stop) of consecutive batches."""
    position = 0
    for batch in batches:
        first, last = max(start - position, 0), min(stop - position, batch.num_rows)
        if first < last:
            yield batch.slice(first, last - first)
        position += batch.num_rows
        if position >= stop:
            return


def _conform(batch: pa.RecordBatch, file: InputFile, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with exactly the columns of `schema`, those of the path included."""
    columns = [_column(batch, file, field) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(batch: pa.RecordBatch, file: InputFile, field: pa.Field) -> pa.Array:
    if field.name in batch.schema.names:
        column = batch[field.name]
        return column if column.type == field.type else column.cast(field.type)
    return pa.array([file.partitions[field.name]] * batch.num_rows, field.type)
