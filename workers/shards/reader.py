"""The rows of one shard: only its row groups, only the columns the job needs, and only of unchanged files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import BinaryIO

import pyarrow as pa

from parquetry.schemas.errors import (
    InputChangedError,
    MissingColumnError,
    ParquetryError,
    StorageError,
    UnreadableFileError,
    suggestion,
)
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile, Shard, Slice
from parquetry.schemas.spec.columns import read_schema_text
from parquetry.schemas.spec.formats import FileKind
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.preparation.template import Template
from parquetry.workers.reading.conform import Conforming, Repairs
from parquetry.workers.reading.input_rows import InputRows
from parquetry.workers.reading.opened_text import OpenedText, opened_text
from parquetry.workers.reading.parquet_rows import BATCH_ROWS, read_parquet
from parquetry.workers.reading.text_rows import TextRow, blocks

_BATCH_BYTES = 1 << 20
#: a batch of a table with thousands of columns has this many rows all the same
_LEAST_ROWS = 64
_WIDE_BATCH_BYTES = 16 << 20


def used_columns(spec: JobSpec, names: Collection[str] = ()) -> dict[str, str]:
    """Columns whose values reach the model, each with the key of the spec that names it.

    A template that takes the whole row uses all of `names`, the columns of the input, that the job reads.
    """
    used = dict(spec.needed_columns)
    if spec.task == "generate" and spec.prompt.template is not None:
        columns = Template.parse(spec.prompt.template).columns(spec.input.columns or names)
        used.update(dict.fromkeys(columns, "prompt.template"))
    return used


def kept_columns(spec: JobSpec, names: Collection[str]) -> list[str]:
    """Input columns the output carries, of an input that has the columns `names`."""
    if spec.output.keep is not None:
        return list(spec.output.keep)
    return list(names if spec.input.columns is None else spec.input.columns)


def read_columns(spec: JobSpec, names: Collection[str]) -> list[str]:
    """Columns a shard is read with, kept ones first. Raises MissingColumnError for one that is not in `names`."""
    wanted = dict.fromkeys(kept_columns(spec, names), "output.keep") | used_columns(spec, names)
    known = set(names)
    for name, where in wanted.items():
        if name not in known:
            near = suggestion(name, names)
            raise MissingColumnError(where=where, column=name, suggestion=near, columns=", ".join(names))
    return list(wanted)


def input_schema(record: JobRecord) -> pa.Schema:
    """The columns a shard is read with, kept ones first, with what the input's metadata says of them."""
    return read_schema_text(record.input_schema)


def read_shard(
    record: JobRecord, shard: Shard, schema: pa.Schema | None = None, repairs: Repairs | None = None
) -> Iterator[InputRows]:
    """The shard's rows in order, in batches of at most BATCH_ROWS with the schema of `input_schema`.

    Rows of which something could not be read are there, with what is wrong beside them; cells that were repaired and
    are of no use to the model are counted in `repairs`. Raises InputChangedError, UnreadableFileError, StorageError.
    """
    repairs = Repairs() if repairs is None else repairs
    schema = input_schema(record) if schema is None else schema
    # without any column, rows could not be counted
    schema = schema if schema.names else pa.schema([_COUNTING])
    used = used_columns(record.spec, schema.names)
    for file_slice in shard.slices:
        conforming = Conforming(schema, used, file_slice.file.partitions, repairs)
        with _opened(file_slice.file) as file:
            read = _read_parquet if file_slice.file.format == "parquet" else _read_text
            for rows in read(file_slice, file, schema, conforming):
                yield from rows.pieces(_num_rows(rows.batch))


def _num_rows(batch: pa.RecordBatch) -> int:
    """Rows of a piece of about _BATCH_BYTES: some rows hold whole books."""
    row_bytes = max(batch.nbytes // max(batch.num_rows, 1), 1)
    least = min(_LEAST_ROWS, _WIDE_BATCH_BYTES // row_bytes) if batch.num_columns > _LEAST_ROWS else 1
    return min(BATCH_ROWS, max(1, least, _BATCH_BYTES // row_bytes))


def cut_batches(batches: Iterable[InputRows], num_rows: int | None) -> Iterator[InputRows]:
    """The batches cut to at most `num_rows` rows each; None leaves them whole."""
    for rows in batches:
        yield from (rows,) if num_rows is None else rows.pieces(num_rows)


def _read_parquet(file_slice: Slice, file: BinaryIO, schema: pa.Schema, conforming: Conforming) -> Iterator[InputRows]:
    for batch in read_parquet(file, schema.names, file_slice.start, file_slice.stop):
        yield from conforming.rows(batch)


def _read_text(file_slice: Slice, file: BinaryIO, schema: pa.Schema, conforming: Conforming) -> Iterator[InputRows]:
    kind = FileKind(file_slice.file.format, file_slice.file.compression)
    with opened_text(file, kind, file_slice.file.path) as text:
        mark = max((mark for mark in file_slice.file.marks if mark[0] <= file_slice.start), default=text.first)
        skipped = file_slice.start - mark[0]
        wanted = islice(text.rows(mark), skipped, file_slice.stop - mark[0])
        for block in blocks(_without_repeated(wanted, file_slice)):
            yield from conforming.rows(*_text_batch(text, block, schema, file_slice.file, conforming))


def _without_repeated(rows: Iterator[TextRow], file_slice: Slice) -> Iterator[TextRow]:
    """The rows, with a fault where the custom_id is an earlier one's."""
    again = frozenset(file_slice.file.repeated_rows)
    for number, row in enumerate(rows, file_slice.start):
        is_fault = number in again and row.fault is None
        yield row._replace(fault="custom_id: an earlier line has the same") if is_fault else row


def _text_batch(
    text: OpenedText, rows: list[TextRow], schema: pa.Schema, file: InputFile, conforming: Conforming
) -> tuple[pa.RecordBatch, dict[int, str]]:
    """The columns of some rows, and what is wrong with rows or cells of them."""
    faults = {i: row.fault for i, row in enumerate(rows) if row.fault is not None}
    fields = [field for field in schema if field.name not in file.partitions]
    columns = [text.format.column(rows, field.name, field.type) for field in fields]
    for field, column in zip(fields, columns, strict=True):
        faults.update({i: fault for i, fault in column.faults.items() if i not in faults})
        conforming.repaired(field.name, column.repaired, faults)
    name = Location.parse(file.path).name
    # without any column, rows could not be counted
    fields, arrays = [*fields, _COUNTING], [*(column.array for column in columns), pa.nulls(len(rows))]
    batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
    return batch, {i: f"line {rows[i].line} of {name}: {fault}" for i, fault in faults.items()}


_COUNTING = pa.field("\0", pa.null())


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
