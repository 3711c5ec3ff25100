"""The rows of a part as lines of a batch's output file and of its error file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import pyarrow.parquet as pq

from parquetry.workers.responses.answer import COLUMNS, AnswerWriter

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
                text = json.dumps(writer.answer(row), ensure_ascii=False, separators=(",", ":"))
                yield AnswerLine(row["error"] is not None, text.encode() + b"\n")
