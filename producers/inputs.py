"""The input of a job as one table: its files in order, their common columns, and where row groups end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from parquetry.producers.footers import FileFacts, read_facts
from parquetry.producers.listing import find_files
from parquetry.schemas.errors import EmptyInputError, MixedSchemasError
from parquetry.schemas.job import InputSpec
from parquetry.schemas.shard import InputFile

#: footers read at the same time; nearly all of their time is waiting for storage
_NUM_READERS = 16
_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class InputTable:
    """What is known of the input before any row of a Parquet file is read."""

    files: tuple[InputFile, ...]
    #: columns that are read, hive partition columns last; without metadata
    schema: pa.Schema
    #: every column of the first file, read or not
    columns: tuple[str, ...]
    #: rows of each row group of each file
    row_group_rows: list[list[int]]
    #: mean uncompressed bytes of a row, in the columns that are read
    row_bytes: float

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)


def find_inputs(spec: InputSpec) -> InputTable:
    """List the files and read their footers; .jsonl and .csv files are read once, to count rows.

    Raises InputNotFoundError, EmptyInputError, UnreadableFileError and MixedSchemasError, each naming its file.
    Columns of `spec.columns` that no file has are not in the schema.
    """
    found = [file for file in find_files(spec.path) if not file.is_blank]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        facts = list(readers.map(lambda file: read_facts(file, spec.columns), found))
    num_rows = sum(fact.num_rows for fact in facts)
    if num_rows == 0:
        raise EmptyInputError(path=spec.path)
    return InputTable(
        files=tuple(_input_file(fact) for fact in facts),
        schema=_common_schema(facts, spec.columns),
        columns=tuple(facts[0].schema.names),
        row_group_rows=[fact.row_group_rows for fact in facts],
        row_bytes=sum(fact.data_bytes for fact in facts) / num_rows,
    )


def _input_file(facts: FileFacts) -> InputFile:
    entry = facts.file.entry
    return InputFile(
        path=facts.file.path,
        num_rows=facts.num_rows,
        size=entry.size,
        etag=entry.etag,
        partitions=facts.partitions,
    )


def _common_schema(facts: Sequence[FileFacts], columns: Collection[str] | None) -> pa.Schema:
    first, *others = facts
    wanted = _projected(first.schema, columns)
    differing = {
        other.file.path: difference
        for other in others
        if (difference := _difference(wanted, _projected(other.schema, columns)))
    }
    if differing:
        raise MixedSchemasError(differences=_describe(first.file.path, differing))
    return wanted


def _projected(schema: pa.Schema, columns: Collection[str] | None) -> pa.Schema:
    """The columns that are read, in the order the spec names them."""
    if columns is None:
        return schema
    return pa.schema([schema.field(name) for name in dict.fromkeys(columns) if name in schema.names])


def _difference(wanted: pa.Schema, schema: pa.Schema) -> str:
    """How `schema` differs in names and types, empty when it does not; order and nullability do not matter."""
    missing = [name for name in wanted.names if name not in schema.names]
    extra = [name for name in schema.names if name not in wanted.names]
    retyped = [
        f"column {name!r} is {schema.field(name).type} instead of {wanted.field(name).type}"
        for name in wanted.names
        if name not in missing and schema.field(name).type != wanted.field(name).type
    ]
    lacks = [f"it lacks column {name!r}" for name in missing]
    adds = [f"it has the additional column {name!r}" for name in extra]
    return ", ".join((retyped + lacks + adds)[:_MAX_NAMED])


def _describe(first: str, differing: dict[str, str]) -> str:
    named = [f"{path}: {difference}" for path, difference in list(differing.items())[:_MAX_NAMED]]
    rest = len(differing) - len(named)
    more = f"; and {rest} more files" if rest > 0 else ""
    return f"compared with {first}, {'; '.join(named)}{more}"
