"""Rows of committed parts as plain values, each beside the input it came from; a few at a time, never a whole part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.errors import BadInputError, ParquetryError, RowError, UnreadableFileError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import part_name
from parquetry.schemas.spec.columns import ERROR, ROW
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.job_record import cached_record
from parquetry.workers.preparation.cells import cells
from parquetry.workers.shards.provenance import from_metadata
from parquetry.workers.shards.reader import input_schema, kept_columns, read_shard, used_columns

#: characters of a cell, and values of a list, that are shown
MAX_TEXT = 2000
MAX_VALUES = 6
MAX_ROWS = 100


class NoPartError(BadInputError):
    """Shard {shard} of job {job} has no committed part yet."""


class ErrorRow(NamedTuple):
    """A row that has an error instead of an output."""

    #: position in the job's input
    row: int
    shard: int
    #: position in its part
    place: int
    error: str


class WrittenRows:
    """The committed parts of one output. Every verb raises StorageError, NoPartError and UnreadableFileError."""

    def __init__(self, storage: Storage, record: JobRecord) -> None:
        self.storage = storage
        self.record = record

    @classmethod
    def of(cls, output: str, job: str) -> WrittenRows:
        """The parts of a job's output folder or URI."""
        return cls(open_storage(Location.parse(output)), cached_record(output, job))

    def rows(self, shard: int, first: int = 0, count: int = 20) -> dict[str, Any]:
        """Rows [first, first + count) of a part: names of its input and output columns, and the rows as plain data."""
        count = min(max(count, 1), MAX_ROWS)
        with self._opened(shard) as file:
            table = _few_rows(file, first, count)
            total = file.metadata.num_rows
        outputs = _output_names(table.schema)
        rows = [_shown_row(values) for values in _dicts(table)]
        inputs = [name for name in table.column_names if name not in outputs]
        if missing := self._not_kept(inputs):
            for row, more in zip(rows, self._input_rows(shard, first, len(rows), missing), strict=False):
                row.update(more)
            inputs = [*missing, *inputs]
        return {"shard": shard, "first": first, "total": total, "inputs": inputs, "outputs": outputs, "rows": rows}

    def error_rows(self, shard: int) -> Iterator[ErrorRow]:
        """The error rows of a part, in order."""
        with self._opened(shard) as file:
            place = 0
            for batch in file.iter_batches(8192, columns=[ROW.name, ERROR.name], use_threads=False):
                errors = batch.column(ERROR.name)
                for index in errors.is_valid().to_numpy(zero_copy_only=False).nonzero()[0]:
                    row = batch.column(ROW.name)[int(index)].as_py()
                    yield ErrorRow(row, shard, place + int(index), cells(ERROR.name, errors.slice(int(index), 1))[0])
                place += batch.num_rows

    def footer(self, shard: int) -> dict[str, str]:
        """What the part's footer tells of how it was made."""
        with self._opened(shard) as file:
            return from_metadata(file.metadata.metadata)

    def modified_size(self, shard: int) -> int | None:
        """Bytes of the part, None where there is none."""
        entry = self.storage.head(part_name(shard))
        return None if entry is None else entry.size

    @contextmanager
    def _opened(self, shard: int) -> Iterator[pq.ParquetFile]:
        name = part_name(shard)
        if not 0 <= shard < self.record.shard_plan.num_shards or self.storage.head(name) is None:
            raise NoPartError(shard=shard, job=self.record.job)
        try:
            with closing(self.storage.open(name)) as stream, pq.ParquetFile(stream, pre_buffer=False) as file:
                yield file
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0][:200]
            raise UnreadableFileError(path=self.storage.root.join(name), reason=reason) from None

    def _not_kept(self, kept: list[str]) -> list[str]:
        """Columns that reach the model and are not in the output."""
        names = input_schema(self.record).names if self.record.input_schema else []
        return [name for name in used_columns(self.record.spec, names) if name not in kept and name in names]

    def _input_rows(self, shard: int, first: int, count: int, names: list[str]) -> list[dict[str, Any]]:
        """The same rows as the input has them; none where it is gone or has changed since."""
        begin = self.record.shard_plan.bounds[shard] + first
        wanted = self.record.shard_plan.cut(shard, begin, begin + count)
        try:
            tables = [pa.Table.from_batches([rows.batch]).select(names) for rows in read_shard(self.record, wanted)]
        except ParquetryError:
            return []
        return [_shown_row(values) for table in tables for values in _dicts(table)]


def kept_names(record: JobRecord) -> list[str]:
    """Input columns that the output of a job carries."""
    return kept_columns(record.spec, input_schema(record).names) if record.input_schema else []


def _few_rows(file: pq.ParquetFile, first: int, count: int) -> pa.Table:
    """Rows [first, first + count), of the row groups that hold them."""
    groups, skipped, start = [], 0, 0
    for group in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if stop <= first:
            skipped = stop
        elif start < first + count:
            groups.append(group)
        start = stop
    batches, seen, wanted = [], 0, first - skipped + count
    for batch in file.iter_batches(min(1024, wanted), row_groups=groups, use_threads=False) if groups else ():
        batches.append(batch)
        seen += batch.num_rows
        if seen >= wanted:
            break
    return pa.Table.from_batches(batches, schema=file.schema_arrow).slice(first - skipped, count)


def _output_names(schema: pa.Schema) -> list[str]:
    """What the job wrote: everything from `row` on."""
    return list(schema.names[schema.names.index(ROW.name) :]) if ROW.name in schema.names else list(schema.names)


def _dicts(table: pa.Table) -> list[dict[str, Any]]:
    columns = [cells(name, table[name].combine_chunks()) for name in table.column_names]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def _shown_row(values: dict[str, Any]) -> dict[str, Any]:
    return {name: shown(value) for name, value in values.items()}


def shown(value: Any) -> Any:
    """A cell as it is shown: a number, a truth value, None, or text of at most MAX_TEXT characters."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, RowError):
        return f"({value})"
    if isinstance(value, list) and len(value) > MAX_VALUES and all(isinstance(item, float | int) for item in value):
        return f"[{', '.join(f'{item:.4g}' for item in value[:MAX_VALUES])}, ... {len(value):,} values]"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... {len(text):,} characters"
