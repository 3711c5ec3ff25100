"""Rows of a text file before they have types: what JSON Lines and CSV have in common."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from parquetry.schemas.shard import Mark

#: rows that become one batch, at most, and about how many bytes of text
BLOCK_ROWS = 8192
BLOCK_BYTES = 4 << 20


class TextRow(NamedTuple):
    """One row: its place, and its values or what is wrong with it."""

    #: of its first line, from 1
    line: int
    byte: int
    #: what the format makes of it; None for a malformed row
    values: Any
    fault: str | None = None
    #: columns with cells that are not Unicode as they are written, and have U+FFFD for what is not
    repaired: frozenset[str] = frozenset()


class Column(NamedTuple):
    """Cells of some rows in one column."""

    array: pa.Array
    #: what is wrong with single cells, by row
    faults: dict[int, str] = {}  # noqa: RUF012
    #: rows whose cell is repaired
    repaired: frozenset[int] = frozenset()


class TextFormat(ABC):
    """One text file: how its lines become rows, and its rows columns."""

    @abstractmethod
    def rows(self, stream: io.BufferedReader, mark: Mark) -> Iterator[TextRow]:
        """The rows from a mark on; the stream must stand there. Raises OSError."""

    @abstractmethod
    def column(self, rows: Sequence[TextRow], name: str, kind: pa.DataType) -> Column:
        """One column of the rows, null in malformed rows and where a row has no such key."""


def blocks(rows: Iterator[TextRow]) -> Iterator[list[TextRow]]:
    """The rows in lists that are small enough to hold and large enough to be worth a batch."""
    block: list[TextRow] = []
    for row in rows:
        block.append(row)
        if len(block) == BLOCK_ROWS or row.byte - block[0].byte >= BLOCK_BYTES:
            yield block
            block = []
    if block:
        yield block


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
