"""The lines of a text file, each with its number and its place."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

from parquetry.schemas.shard import Mark

#: where every text file begins
START: Mark = (0, 0, 1)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """One line, its end included; None for one that is longer than allowed."""

    #: from 1
    number: int
    #: where it begins in the uncompressed text
    byte: int
    data: bytes | None
    #: where the next one begins
    end: int


def lines(stream: io.BufferedReader, mark: Mark, max_bytes: int) -> Iterator[Line]:
    """The lines from a mark on; the stream must stand at its byte. Raises OSError."""
    _, byte, number = mark
    while data := stream.readline(max_bytes + 1):
        size = len(data)
        if size > max_bytes:
            size += _skip_line(stream, data)
            yield Line(number, byte, None, byte + size)
        else:
            yield Line(number, byte, data.removeprefix(_BYTE_ORDER_MARK) if byte == 0 else data, byte + size)
        byte, number = byte + size, number + 1


def _skip_line(stream: io.BufferedReader, begun: bytes) -> int:
    """Read to the end of a line of which `begun` was read; returns the bytes."""
    size = 0
    while not begun.endswith(b"\n") and (begun := stream.readline(1 << 20)):
        size += len(begun)
    return size


def seek(stream: io.BufferedReader, here: Mark, there: Mark) -> None:
    """Go forward from one mark to another; a compressed text is unpacked on the way."""
    if stream.seekable():
        stream.seek(there[1])
        return
    left = there[1] - here[1]
    while left > 0 and (data := stream.read(min(left, 4 << 20))):
        left -= len(data)


def encoding_problem(head: bytes) -> str | None:
    """Why a text file that begins with these bytes is not UTF-8, None where it may be."""
    if head.startswith(_OTHER_MARKS):
        return "it is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
    return "it begins with zero bytes, so it is no UTF-8 text" if head.startswith(b"\0") else None
