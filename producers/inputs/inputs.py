"""The input of a job as one table: its files in order, their common columns, and where row groups end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa

from parquetry.producers.inputs.common_schema import column_names, common_schema
from parquetry.producers.inputs.footers import FileFacts, read_facts
from parquetry.producers.inputs.listing import FoundFile, find_files
from parquetry.producers.inputs.requests import AskedUrl, asked_urls, repeated_notes, repeated_rows
from parquetry.schemas.errors import EmptyInputError, UnreadableFileError
from parquetry.schemas.shard import InputFile
from parquetry.schemas.spec.job import InputSpec

#: footers read at the same time; nearly all of their time is waiting for storage
_NUM_READERS = 16


@dataclass(frozen=True, kw_only=True)
class InputTable:
    """What is known of the input before any row of a Parquet file is read."""

    files: tuple[InputFile, ...]
    #: columns that are read, hive partition columns last; with the metadata of pandas and of the columns
    schema: pa.Schema
    #: every column of every file, read or not
    columns: tuple[str, ...]
    #: rows of each row group of each file
    row_group_rows: list[list[int]]
    #: mean uncompressed bytes of a row, in the columns that are read
    row_bytes: float
    #: sentences on files that were left out, and on malformed lines
    notes: tuple[str, ...] = ()
    #: the first file with a malformed line, and what is wrong there
    malformed: tuple[str, str] | None = None
    #: of files of requests, what lines ask for
    asked: Mapping[str, AskedUrl] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)


def find_inputs(spec: InputSpec, *, columns: Collection[str] | None = None, needed: Collection[str] = ()) -> InputTable:
    """List the files and read their footers; text files are read once, whole, to count rows and know types.

    `columns` are those that are kept or used (those of the spec by default), `needed` those no file may lack. Raises
    InputNotFoundError, EmptyInputError, UnreadableFileError and MixedSchemasError, each naming its file. Columns that
    no file has are not in the schema.
    """
    columns = spec.columns if columns is None else columns
    listing = find_files(spec.path)
    found = [_as_format(file, spec) for file in listing.files if not file.is_blank]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        facts = list(readers.map(lambda file: read_facts(file, spec, columns), found))
    num_rows = sum(fact.num_rows for fact in facts)
    if num_rows == 0:
        raise EmptyInputError(path=spec.path)
    again = repeated_rows(facts)
    known = column_names(facts)
    present = set(known)
    read = known if columns is None else [name for name in dict.fromkeys(columns) if name in present]
    return InputTable(
        files=tuple(_input_file(fact, rows) for fact, rows in zip(facts, again, strict=True)),
        schema=common_schema(facts, read, needed),
        columns=known,
        row_group_rows=[fact.row_group_rows for fact in facts],
        row_bytes=sum(fact.data_bytes for fact in facts) / num_rows,
        notes=(*listing.notes, *_malformed_notes(facts), *repeated_notes(facts, again)),
        malformed=next(((f.file.path, _first_malformed(f)) for f in facts if f.malformed), None),
        asked=asked_urls(facts),
    )


def _as_format(file: FoundFile, spec: InputSpec) -> FoundFile:
    """The file as it is to be read. Raises UnreadableFileError for requests in a file of another format."""
    if spec.format == "auto":
        return file
    if file.kind.format != "jsonl":
        reason = f"it is {file.kind.format}, and input.format openai-batch is JSON Lines, a request a line"
        raise UnreadableFileError(path=file.path, reason=reason)
    return replace(file, kind=replace(file.kind, format=spec.format))


def _malformed_notes(facts: Sequence[FileFacts]) -> list[str]:
    total, files = sum(fact.num_malformed for fact in facts), [fact for fact in facts if fact.malformed]
    if not files:
        return []
    lines = "1 line is malformed and becomes an error row"
    if total > 1:
        lines = f"{total:,} lines are malformed and become error rows"
    return [f"{lines}, the first in {files[0].file.path}: {_first_malformed(files[0])}"]


def _first_malformed(fact: FileFacts) -> str:
    assert fact.malformed is not None
    return f"line {fact.malformed[0]}: {fact.malformed[1]}"


def _input_file(facts: FileFacts, repeated: Sequence[int]) -> InputFile:
    entry, kind = facts.file.entry, facts.file.kind
    return InputFile(
        path=facts.file.path,
        num_rows=facts.num_rows,
        size=entry.size,
        etag=entry.etag,
        partitions=facts.partitions,
        format=kind.format,
        compression=kind.compression,
        marks=facts.marks,
        repeated_rows=tuple(repeated),
    )
