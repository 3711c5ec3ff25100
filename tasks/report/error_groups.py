"""Error rows of an output by what is wrong with them: how many, which rows, and some of them with their input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from parquetry.schemas.manifest import MANIFEST_FILE, JobRecord, Manifest
from parquetry.schemas.shard import part_name
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.report.written_rows import ErrorRow, WrittenRows
from parquetry.workers.shards.shard_progress import error_kind

MAX_EXAMPLES = 3
#: examples whose input is read, of all reasons together
MAX_INPUTS = 30
MAX_NUMBERS = 1000


class ErrorExample(BaseModel):
    """One error row in full."""

    row: int
    shard: int
    error: str
    #: its input by column, as far as it can still be read
    input: dict[str, Any] = {}


class ErrorGroup(BaseModel):
    """Error rows with one thing wrong with them, numbers aside."""

    kind: str
    rows: int
    #: their positions in the job's input, the first of them
    row_numbers: list[int] = []
    examples: list[ErrorExample] = []


def error_groups(written: WrittenRows, shards: Iterable[int], *, with_input: bool = True) -> list[ErrorGroup]:
    """The error rows of these shards by reason, the most frequent first. Raises StorageError, UnreadableFileError."""
    groups: dict[str, ErrorGroup] = {}
    for shard in shards:
        for found in written.error_rows(shard):
            _add(groups, written, found, with_input)
    return sorted(groups.values(), key=lambda group: (-group.rows, group.kind))


def _add(groups: dict[str, ErrorGroup], written: WrittenRows, found: ErrorRow, with_input: bool) -> None:
    kind = error_kind(found.error)
    group = groups.setdefault(kind, ErrorGroup(kind=kind, rows=0))
    group.rows += 1
    if len(group.row_numbers) < MAX_NUMBERS:
        group.row_numbers.append(found.row)
    if len(group.examples) < MAX_EXAMPLES:
        read = sum(bool(example.input) for other in groups.values() for example in other.examples)
        group.examples.append(_example(written, found, with_input and read < MAX_INPUTS))


def _example(written: WrittenRows, found: ErrorRow, with_input: bool) -> ErrorExample:
    example = ErrorExample(row=found.row, shard=found.shard, error=found.error)
    if not with_input:
        return example
    page = written.rows(found.shard, found.place, 1)
    return example.model_copy(update={"input": {name: page["rows"][0].get(name) for name in page["inputs"]}})


def shards_with_errors(storage: Storage, record: JobRecord, ledger: Ledger | None = None) -> Iterator[int]:
    """The committed shards that hold error rows, in order: as the queue, the manifest, or else each footer tells."""
    is_known = False
    if ledger is not None:
        # of a job that is done the queue has forgotten them
        for shard, digest in enumerate(ledger.digests.read(record.job, record.shard_plan.num_shards)):
            is_known = is_known or digest is not None
            if digest is not None and digest.error_rows:
                yield shard
    if not is_known:
        yield from _without_queue(storage, record)


def _without_queue(storage: Storage, record: JobRecord) -> Iterator[int]:
    data = storage.try_read(MANIFEST_FILE)
    if data is None:
        yield from _by_footers(storage, record)
    else:
        yield from (part.shard for part in Manifest.model_validate_json(data).parts if part.error_rows)


def _by_footers(storage: Storage, record: JobRecord) -> Iterator[int]:
    written = WrittenRows(storage, record)
    there = {entry.path for entry in storage.list("part-")}
    for shard in range(record.shard_plan.num_shards):
        if part_name(shard) in there and written.footer(shard).get("error_rows", "0") != "0":
            yield shard
