"""A text file opened as its kind says, header read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from parquetry.schemas.errors import UnreadableFileError
from parquetry.schemas.shard import Mark
from parquetry.schemas.spec.formats import HEAD_BYTES, FileKind
from parquetry.schemas.storage.decompression import open_text
from parquetry.workers.reading.batch_lines import BatchLines
from parquetry.workers.reading.csv_records import CsvRecords
from parquetry.workers.reading.json_lines import JsonLines
from parquetry.workers.reading.lines import START, problem_of, seek
from parquetry.workers.reading.text_rows import TextFormat, TextRow

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_OF_JSON = {"jsonl": JsonLines, "openai-batch": BatchLines}


@dataclass(frozen=True)
class OpenedText:
    """One text file, its stream right before the first row."""

    stream: io.BufferedReader
    format: TextFormat
    first: Mark

    def rows(self, mark: Mark | None = None) -> Iterator[TextRow]:
        """The rows from a mark on, or all; once only. Raises OSError."""
        mark = self.first if mark is None or mark[1] < self.first[1] else mark
        if mark != self.first:
            seek(self.stream, self.first, mark)
        return self.format.rows(self.stream, mark)


@contextmanager
def opened_text(stream: BinaryIO, kind: FileKind, path: str) -> Iterator[OpenedText]:
    """Raises UnreadableFileError for text that is not UTF-8, and for a malformed header."""
    with open_text(stream, kind.compression) as text:
        head = text.peek(HEAD_BYTES)[:HEAD_BYTES]
        problem = problem_of(head) or (_problem_of_json(head) if kind.format in _OF_JSON else None)
        if problem is not None:
            raise UnreadableFileError(path=path, reason=problem)
        if kind.format in _OF_JSON:
            yield OpenedText(text, _OF_JSON[kind.format](), START)
        else:
            found, first = CsvRecords.open(text, _DELIMITERS[kind.format], path)
            yield OpenedText(text, found, first)


def _problem_of_json(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no JSON Lines, though it may be JSON."""
    first = head.lstrip().partition(b"\n")[0].rstrip()
    # a whole array on one line is a malformed line, and no reason to refuse the others
    if first.startswith(b"[") and not first.endswith(b"]") and len(first) < HEAD_BYTES // 2:
        return "it is one JSON array; write one object a line (jq -c '.[]')"
    return "it is one JSON object over many lines; write one object a line (jq -c .)" if first == b"{" else None
