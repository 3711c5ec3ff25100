"""CSV: records that may span lines, read strictly, so that an open quote spoils its own line and no more."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from parquetry.schemas.errors import UnreadableFileError
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Mark
from parquetry.workers.reading.lines import START, Line, lines
from parquetry.workers.reading.text_rows import Column, TextFormat, TextRow, is_text

#: bytes one record may span behind an open quote
_MAX_RECORD_BYTES = 16 << 20
# lines are bounded before they get there
csv.field_size_limit(1 << 30)


class _TooLongError(Exception):
    """A quote is not closed within _MAX_RECORD_BYTES."""


class CsvRecords(TextFormat):
    """A file of delimited records with a header."""

    def __init__(self, header: Sequence[str], delimiter: str) -> None:
        self.header = list(header)
        self._delimiter = delimiter
        self._places = {name: place for place, name in enumerate(self.header)}

    @classmethod
    def open(cls, stream: io.BufferedReader, delimiter: str, path: str) -> tuple[CsvRecords, Mark]:
        """Read the header; returns the file and the mark behind it. Raises UnreadableFileError."""
        feed = _Feed(lines(stream, START, settings().max_row_bytes))
        header = next(_records(feed, delimiter), None)
        if header is None:
            return cls([], delimiter), START
        if header.values is None:
            raise UnreadableFileError(path=path, reason=f"line {header.line}, its header, is malformed: {header.fault}")
        if _repaired(header.values)[1]:
            raise UnreadableFileError(path=path, reason="its header is not valid UTF-8; save the file as UTF-8")
        return cls(header.values, delimiter), (0, feed.byte, feed.line)

    def rows(self, stream: io.BufferedReader, mark: Mark) -> Iterator[TextRow]:
        width = len(self.header)
        # in a file of one column a blank line is a row: so is null written by Arrow, polars and DuckDB
        blank = [None] if width == 1 else None
        for row in _records(_Feed(lines(stream, mark, settings().max_row_bytes)), self._delimiter, blank):
            if row.values is not None and len(row.values) != width:
                reason = f"it has {_fields(len(row.values))}, and the header has {width}"
                yield TextRow(row.line, row.byte, None, reason)
            else:
                yield row

    def column(self, rows: Sequence[TextRow], name: str, kind: pa.DataType) -> Column:
        place = self._places.get(name)
        if place is None:
            return Column(pa.nulls(len(rows), kind))
        texts, repaired = self.texts(rows, place)
        if is_text(kind):
            return Column(texts if texts.type == kind else texts.cast(kind), {}, repaired)
        numbers = pc.if_else(pc.is_in(texts, nulls()), pa.scalar(None, pa.string()), texts)
        return Column(numbers.cast(kind), {}, repaired)

    def texts(self, rows: Sequence[TextRow], place: int) -> tuple[pa.Array, frozenset[int]]:
        """One column as it is written, and the rows whose cell was not UTF-8."""
        cells = [None if row.values is None else row.values[place] for row in rows]
        try:
            return pa.array(cells, pa.string()), frozenset()
        except UnicodeEncodeError:
            return _repaired(cells)


@cache
def nulls() -> pa.Array:
    """What stands for null in a column of numbers; in a column of text it is text."""
    # not when this module is imported: at its first array Arrow imports pandas, a third of the start of a process
    return pa.array(["", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "NaN", "nan"])


def _repaired(cells: Sequence[str | None]) -> tuple[pa.Array, frozenset[int]]:
    # a lone surrogate is how `surrogateescape` keeps a byte that is not UTF-8
    clean = [None if c is None else c.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for c in cells]
    return pa.array(clean, pa.string()), frozenset(i for i, cell in enumerate(cells) if cell != clean[i])


def _fields(count: int) -> str:
    return f"{count} field" if count == 1 else f"{count} fields"


class _Feed:
    """Gives lines to the parser, and can give those behind a malformed one a second time."""

    def __init__(self, source: Iterator[Line]) -> None:
        self._source = source
        self._again: deque[Line] = deque()
        self._taken: list[Line] = []
        self._size = 0
        #: behind what was given last
        self.line, self.byte = 1, 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._source)
        self._taken.append(line)
        data = b"" if line.data is None else line.data
        self._size += len(data)
        self.line, self.byte = line.number + 1, line.end
        if line.data is None or (self._size > _MAX_RECORD_BYTES and len(self._taken) > 1):
            raise _TooLongError
        return data.decode("utf-8", "surrogateescape")

    def taken(self) -> Line | None:
        """The first line given since the last call; the record that it began is done with."""
        first = self._taken[0] if self._taken else None
        self._taken, self._size = [], 0
        return first

    def retry(self) -> Line:
        """The same, and the lines behind it will be given again: they are records of their own."""
        first, *others = self._taken
        self._again.extendleft(reversed(others))
        self._taken, self._size = [], 0
        return first


def _records(feed: _Feed, delimiter: str, blank: list[None] | None = None) -> Iterator[TextRow]:
    """The records; `blank` are the values of a blank line, None where it is no record."""
    while True:
        try:
            for values in csv.reader(feed, strict=True, delimiter=delimiter):
                first = feed.taken()
                if first is not None and (values or blank):
                    yield TextRow(first.number, first.byte, values or blank)
        except (csv.Error, _TooLongError) as error:
            first = feed.retry()
            yield TextRow(first.number, first.byte, None, _fault(error, first))
        else:
            return


def _fault(error: Exception, line: Line) -> str:
    if line.data is None:
        return f"it is longer than {settings().max_row_bytes:,} bytes"
    text = str(error)
    if isinstance(error, _TooLongError) or "unexpected end of data" in text:
        return "its quote is not closed"
    if "new-line character" in text:
        return "it has a carriage return outside quotes"
    if "expected after" in text:
        return "a quoted field of it goes on behind its closing quote, or a quote is not closed"
    return text[:120]
