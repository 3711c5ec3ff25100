"""A text file opened as its kind says, header read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from parquetry.schemas.errors import UnreadableFileError
from parquetry.schemas.formats import FileKind
from parquetry.schemas.shard import Mark
from parquetry.schemas.storage.decompression import open_text
from parquetry.workers.reading.csv_records import CsvRecords
from parquetry.workers.reading.json_lines import JsonLines
from parquetry.workers.reading.lines import START, encoding_problem, seek
from parquetry.workers.reading.text_rows import TextFormat, TextRow

_DELIMITERS = {"csv": ",", "tsv": "\t"}


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
        problem = encoding_problem(text.peek(4)[:4])
        if problem is not None:
            raise UnreadableFileError(path=path, reason=problem)
        if kind.format == "jsonl":
            yield OpenedText(text, JsonLines(), START)
        else:
            found, first = CsvRecords.open(text, _DELIMITERS[kind.format], path)
            yield OpenedText(text, found, first)
