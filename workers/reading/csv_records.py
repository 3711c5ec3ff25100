"""CSV: records that may span lines, read strictly, so that an open quote spoils its own line and no more."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from parquetry.schemas.errors import UnreadableFileError
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Mark
from parquetry.workers.reading.lines import START, Line, lines
from parquetry.workers.reading.text_rows import Column, TextFormat, TextRow, is_text

#: what stands for null in a column of numbers; in a column of text it is text
NULLS = pa.array(["", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "NaN", "nan"])
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
        return cls(header.values, delimiter), (0, feed.byte, feed.line)

    def rows(self, stream: io.BufferedReader, mark: Mark) -> Iterator[TextRow]:
        width = len(self.header)
        for row in _records(_Feed(lines(stream, mark, settings().max_row_bytes)), self._delimiter):
            if row.values is not None and len(row.values) != width:
                reason = f"it has {_fields(len(row.values))}, and the header has {width}"
                yield TextRow(row.line, row.byte, None, reason)
            else:
                yield row

    def column(self, rows: Sequence[TextRow], name: str, kind: pa.DataType) -> Column:
        place = self._places.get(name)
        if place is None:
            return Column(pa.nulls(len(rows), kind))
        texts, faults = self.texts(rows, place)
        if is_text(kind):
            return Column(texts if texts.type == kind else texts.cast(kind), faults)
        numbers = pc.if_else(pc.is_in(texts, NULLS), pa.scalar(None, pa.string()), texts)
        return Column(numbers.cast(kind), faults)

    def texts(self, rows: Sequence[TextRow], place: int) -> tuple[pa.Array, dict[int, str]]:
        """One column as it is written, and the cells of it that were not UTF-8."""
        cells = [None if row.values is None else row.values[place] for row in rows]
        try:
            return pa.array(cells, pa.string()), {}
        except UnicodeEncodeError:
            return _repaired(self.header[place], cells)


def _repaired(name: str, cells: list[str | None]) -> tuple[pa.Array, dict[int, str]]:
    # a lone surrogate is how `surrogateescape` keeps a byte that is not UTF-8
    clean = [None if c is None else c.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for c in cells]
    faults = {i: f"{name} is not valid UTF-8" for i, cell in enumerate(cells) if cell != clean[i]}
    return pa.array(clean, pa.string()), faults


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


def _records(feed: _Feed, delimiter: str) -> Iterator[TextRow]:
    while True:
        try:
            for values in csv.reader(feed, strict=True, delimiter=delimiter):
                first = feed.taken()
                if values and first is not None:
                    yield TextRow(first.number, first.byte, values)
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
    if "expected after" in text:
        return "a quoted field of it goes on behind its closing quote, or a quote is not closed"
    return text[:120]
