"""The rows of a part as lines of a batch's output file and of its error file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq

from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import Shard
from parquetry.schemas.spec.batch_format import CUSTOM_ID
from parquetry.workers.responses.answer import COLUMNS, AnswerWriter
from parquetry.workers.shards.reader import read_shard

_BATCH_ROWS = 256


class AnswerLine(NamedTuple):
    """One line, its end included."""

    is_error: bool
    data: bytes


def answer_lines(writer: AnswerWriter, part: BinaryIO) -> Iterator[AnswerLine]:
    """A line for each row of an open part, in order. Raises OSError and Arrow's errors for a file that is no part."""
    with pq.ParquetFile(part, pre_buffer=False) as parquet:
        names = [name for name in COLUMNS if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
            for row in batch.to_pylist():
                yield AnswerLine(row["error"] is not None, _line(writer.answer(row)))


def unanswered_lines(
    writer: AnswerWriter, record: JobRecord, shard: Shard, error: dict[str, str]
) -> Iterator[AnswerLine]:
    """A line with the error for each row of a shard that has no part. Raises what reading the input raises."""
    row = shard.first_row
    for rows in read_shard(record, shard):
        for custom_id in rows.batch[CUSTOM_ID].to_pylist():
            yield AnswerLine(True, _line(writer.unanswered(row, custom_id, error)))
            row += 1


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
