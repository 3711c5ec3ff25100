"""OpenAI's output and error files of a job that has ended, made of its parts: the same bytes whoever writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import part_name
from parquetry.schemas.spec.batch_format import ERRORS_FILE, OUTPUT_FILE
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.responses.answer import AnswerWriter
from parquetry.workers.responses.answer_lines import AnswerLine, answer_lines, unanswered_lines

_BLOCK_BYTES = 1 << 20


def publish_answers(storage: Storage, record: JobRecord, *, unanswered: dict[str, str] | None = None) -> None:
    """Write both files, unless the job asks for none. Raises StorageError.

    Every part must be there, but for a job that was stopped: `unanswered` is the error, by code and message, of the
    rows without one. What an earlier end of the job has left, before rows were added or computed anew, is replaced.
    """
    if record.spec.output.format != "openai-batch":
        return
    with ExitStack() as stack:
        made = {name: stack.enter_context(storage.attempt(name)) for name in (OUTPUT_FILE, ERRORS_FILE)}
        with ExitStack() as files:
            output, errors = (files.enter_context(path.open("wb")) for path in made.values())
            for line in _lines(storage, record, unanswered):
                (errors if line.is_error else output).write(line.data)
        for name, path in made.items():
            _publish(storage, path, name)


def withdraw_answers(storage: Storage, record: JobRecord) -> None:
    """Remove what `publish_answers` wrote, before the job goes on."""
    if record.spec.output.format == "openai-batch":
        storage.delete(OUTPUT_FILE)
        storage.delete(ERRORS_FILE)


def _lines(storage: Storage, record: JobRecord, unanswered: dict[str, str] | None) -> Iterator[AnswerLine]:
    writer = AnswerWriter(record)
    there = {entry.path for entry in storage.list("part-")}
    for shard in range(record.shard_plan.num_shards):
        if unanswered is not None and part_name(shard) not in there:
            yield from unanswered_lines(writer, record, record.shard_plan.shard(shard), unanswered)
            continue
        with closing(storage.open(part_name(shard))) as part:
            yield from answer_lines(writer, part)


def _publish(storage: Storage, attempt: Path, name: str) -> None:
    with attempt.open("rb") as file:
        digest = _digest(file)
    while not storage.publish(attempt, name):
        with closing(storage.open(name)) as there:
            if _digest(there) == digest:
                return
        storage.delete(name)


def _digest(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.digest()
