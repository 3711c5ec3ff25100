"""What one input file holds: columns, row groups and bytes, from its footer alone where it has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.producers.inputs.listing import FoundFile
from parquetry.producers.inputs.scan_cache import keep_scan, read_scan
from parquetry.schemas.errors import UnreadableFileError
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Mark
from parquetry.schemas.spec.job import InputSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.workers.reading.batch_facts import BatchFacts
from parquetry.workers.reading.parquet_rows import decoded_bytes, leaves
from parquetry.workers.reading.text_scan import TextFacts, scan


@dataclass(frozen=True)
class FileFacts:
    """What one input file holds."""

    file: FoundFile
    #: the columns of the file, then its hive partition columns as strings; types of a text file are not settled yet
    schema: pa.Schema
    own_columns: frozenset[str]
    #: names that more than one column of the file has
    repeated: frozenset[str]
    #: rows of each row group in order; one for a text file
    row_group_rows: list[int]
    #: uncompressed bytes of the columns that are read
    data_bytes: int
    marks: tuple[Mark, ...] = ()
    #: how many lines are malformed, and the first of them
    num_malformed: int = 0
    malformed: tuple[int, str] | None = None
    #: of a file of requests
    batch: BatchFacts | None = None

    @property
    def num_rows(self) -> int:
        return sum(self.row_group_rows)

    @property
    def is_text(self) -> bool:
        return self.file.kind.format != "parquet"

    @property
    def partitions(self) -> dict[str, str | None]:
        """The path's partition columns, less those the file holds itself."""
        return {name: value for name, value in self.file.partitions.items() if name not in self.own_columns}


def read_facts(file: FoundFile, spec: InputSpec, columns: Collection[str] | None) -> FileFacts:
    """Look into one file; `columns` are those that will be read, None for all.

    Raises UnreadableFileError, StorageError.
    """
    try:
        with open_storage(file.location.parent).open(file.location.name) as stream:
            if file.kind.format == "parquet":
                return _parquet_facts(file, stream, columns)
            return _text_facts(file, _scanned(file, stream, spec))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UnreadableFileError(path=file.path, reason=_reason(error)) from error


def _parquet_facts(file: FoundFile, stream: BinaryIO, columns: Collection[str] | None) -> FileFacts:
    with pq.ParquetFile(stream) as parquet:
        metadata, own = parquet.metadata, parquet.schema_arrow
    wanted = leaves(metadata, set(own.names if columns is None else columns))
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    for index, group in enumerate(groups):
        _require_small_rows(file, index, group, wanted)
    data_bytes = sum(group.column(leaf).total_uncompressed_size for group in groups for leaf in wanted)
    return _facts(file, own, [group.num_rows for group in groups], data_bytes)


def _require_small_rows(file: FoundFile, index: int, group: pq.RowGroupMetaData, wanted: list[int]) -> None:
    """A file of kilobytes may unfold into gigabytes; the footer tells before anything is unfolded."""
    size, limit = sum(decoded_bytes(group.column(leaf)) for leaf in wanted), settings().max_row_bytes
    if group.num_rows and size // group.num_rows > limit:
        reason = f"row group {index} has {size:,} bytes in {group.num_rows:,} rows, and a row may have {limit:,}"
        raise UnreadableFileError(path=file.path, reason=f"{reason}; raise PARQUETRY_MAX_ROW_BYTES to read it")


def _scanned(file: FoundFile, stream: BinaryIO, spec: InputSpec) -> TextFacts:
    options = f"{spec.types} {spec.limit}"
    facts = read_scan(file, options)
    if facts is None:
        facts = scan(stream, file.kind, file.path, types=spec.types, limit=spec.limit)
        keep_scan(file, options, facts)
    return facts


def _text_facts(file: FoundFile, found: TextFacts) -> FileFacts:
    if found.malformed is not None and found.num_malformed == found.num_rows:
        line, reason = found.malformed
        array = "; write one JSON object a line instead of an array" if "an array" in reason else ""
        every = f"none of its {found.num_rows:,} lines is a row; line {line}: {reason}{array}"
        raise UnreadableFileError(path=file.path, reason=every)
    schema = pa.schema([pa.field(name, kind) for name, kind in found.types.items()])
    facts = _facts(file, schema, [found.num_rows], found.num_bytes or file.entry.size)
    return replace(
        facts,
        repeated=frozenset(found.repeated),
        marks=tuple(found.marks),
        num_malformed=found.num_malformed,
        malformed=found.malformed,
        batch=found.batch,
    )


def _facts(file: FoundFile, schema: pa.Schema, row_group_rows: list[int], data_bytes: int) -> FileFacts:
    own = frozenset(schema.names)
    repeated = frozenset(name for name, times in Counter(schema.names).items() if times > 1)
    from_path = [pa.field(name, pa.string()) for name in file.partitions if name not in own]
    full = pa.schema([*schema, *from_path], metadata=schema.metadata)
    return FileFacts(file, full, own, repeated, row_group_rows, data_bytes)


#: what Arrow says, and what to do about it
_REMEDIES = {
    "encrypted metadata": "it is encrypted; write it without encryption",
    "magic bytes not found": "it is no whole Parquet file: cut short, or of another kind; write it again",
    "smaller than the": "it is no whole Parquet file: cut short, or of another kind; write it again",
    "file size is 0 bytes": "it is empty, so it is no Parquet file; remove it, or write it again",
    "more than 64 bits": "it has a column of 128-bit integers, which Arrow does not read; write decimals or text",
    "compressed stream": "it is cut short or damaged; copy it again (gzip -t, zstd -t and bzip2 -t tell)",
    "zlib inflate": "it is damaged or not compressed as its name says; copy it again (gzip -t tells)",
    "ZSTD decompress": "it is damaged or not compressed as its name says; copy it again (zstd -t tells)",
    "bz2 decompress": "it is damaged or not compressed as its name says; copy it again (bzip2 -t tells)",
}


def _reason(error: Exception) -> str:
    known = next((remedy for said, remedy in _REMEDIES.items() if said.lower() in str(error).lower()), None)
    return known or (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
