"""Whether the input of a job is still what its shards were cut from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from parquetry.producers.inputs.listing import FoundFile, find_files
from parquetry.schemas.errors import InputReplacedError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile


def require_same_input(record: JobRecord) -> None:
    """Raise InputReplacedError when files were added, removed or changed, see `input_difference`."""
    if difference := input_difference(record):
        raise InputReplacedError(job=record.job, path=record.spec.output.path, difference=difference)


def input_difference(record: JobRecord) -> str:
    """The first file that was added, removed or changed, and how; "" where none was, but behind `input.limit`."""
    found = [file for file in find_files(record.spec.input.path).files if not file.is_blank]
    cut = record.shard_plan.files
    if record.spec.input.limit is not None:
        found = found[: len(cut)]
    return _difference(cut, found)


def _difference(cut: Sequence[InputFile], found: Sequence[FoundFile]) -> str:
    """The first file that differs and how, empty when none does. `found` is in the order of their paths."""
    # files that an extension added follow those that were there
    for old, new in zip_longest(sorted(cut, key=lambda file: file.path), found):
        if new is None or (old is not None and old.path < new.path):
            return f"{old.path} is gone"
        if old is None or new.path < old.path:
            return f"{new.path} was added"
        if (old.size, old.etag) != (new.entry.size, new.entry.etag):
            return f"{new.path} has changed"
    return ""
