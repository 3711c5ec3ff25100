"""The one full pass over a text file: how many rows, of which types, and where some of them begin."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Mark
from parquetry.schemas.spec.batch_format import COLUMNS
from parquetry.schemas.spec.formats import FileKind
from parquetry.workers.reading.batch_facts import BatchFacts
from parquetry.workers.reading.batch_lines import BatchLines
from parquetry.workers.reading.csv_records import CsvRecords
from parquetry.workers.reading.json_blocks import arrow_types, line_blocks
from parquetry.workers.reading.opened_text import OpenedText, opened_text
from parquetry.workers.reading.text_rows import TextRow, blocks
from parquetry.workers.reading.text_types import TEXT, csv_types, joined, json_types

#: bytes between two marks, all that a reader has to skip
_MARK_BYTES = 4 << 20


@dataclass
class TextFacts:
    """What is known of a text file."""

    #: columns in the order they appear, joined from all rows but not settled, since other files may come
    types: dict[str, pa.DataType] = field(default_factory=dict)
    num_rows: int = 0
    #: of the text, uncompressed
    num_bytes: int = 0
    marks: list[Mark] = field(default_factory=list)
    num_malformed: int = 0
    #: the first malformed line, and what is wrong with it
    malformed: tuple[int, str] | None = None
    #: names a CSV header has more than once
    repeated: tuple[str, ...] = ()
    #: of a file of requests
    batch: BatchFacts | None = None


def scan(stream: BinaryIO, kind: FileKind, path: str, *, types: str, limit: int | None) -> TextFacts:
    """Read a text file from its beginning, up to `limit` rows. Raises UnreadableFileError, OSError."""
    facts = TextFacts()
    with opened_text(stream, kind, path) as text:
        if isinstance(text.format, CsvRecords):
            names = text.format.header
            facts.types = dict.fromkeys(names, pa.null())
            facts.repeated = tuple(sorted({name for name in names if names.count(name) > 1}))
        if isinstance(text.format, BatchLines):
            facts.types, facts.batch = dict.fromkeys(COLUMNS, TEXT), BatchFacts()
        if isinstance(text.format, CsvRecords | BatchLines) or limit is not None:
            _scan_rows(facts, text, types, islice(text.rows(), limit))
        else:
            _scan_json(facts, text)
    return facts


def _scan_rows(facts: TextFacts, text: OpenedText, types: str, rows: Iterator[TextRow]) -> None:
    for block in blocks(rows):
        _add(facts, block)
        if facts.batch is None:
            _join(facts.types, _types(text, block, types))
        else:
            facts.batch.add(block)


def _scan_json(facts: TextFacts, text: OpenedText) -> None:
    """The same for JSON Lines, most of them by the block."""
    byte, line = 0, 1
    for data, size in line_blocks(text.stream, settings().max_row_bytes):
        found, num_lines = arrow_types(data), data.count(b"\n") + (not data.endswith(b"\n"))
        if found is None:
            raw: Any = io.BytesIO(data)
            _scan_rows(facts, text, "auto", text.format.rows(io.BufferedReader(raw), (0, byte, line)))
        else:
            _mark(facts, byte, line)
            _join(facts.types, found)
            facts.num_rows += num_lines
        byte, line = byte + size, line + num_lines
    facts.num_bytes = byte


def _types(text: OpenedText, block: list[TextRow], types: str) -> dict[str, pa.DataType]:
    good = [row for row in block if row.values is not None]
    if not isinstance(text.format, CsvRecords):
        return json_types([row.values for row in good])
    return dict.fromkeys(text.format.header, TEXT) if types == "text" else csv_types(text.format, good)


def _join(known: dict[str, pa.DataType], found: dict[str, pa.DataType]) -> None:
    for name, kind in found.items():
        known[name] = joined(known.get(name, pa.null()), kind)


def _add(facts: TextFacts, block: list[TextRow]) -> None:
    for row in block:
        if row.fault is not None:
            facts.num_malformed += 1
            facts.malformed = facts.malformed or (row.line, row.fault)
    _mark(facts, block[0].byte, block[0].line)
    facts.num_rows += len(block)
    facts.num_bytes = block[-1].byte


def _mark(facts: TextFacts, byte: int, line: int) -> None:
    """Remember where the next row begins, unless the last such place is near."""
    if byte - (facts.marks[-1][1] if facts.marks else 0) >= _MARK_BYTES:
        facts.marks.append((facts.num_rows, byte, line))
