"""The lines of a text file, each with its number and its place."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import NamedTuple

from parquetry.schemas.shard import Mark

#: where every text file begins
START: Mark = (0, 0, 1)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_OTHER_FILES = {
    b"PAR1": "Parquet; give its name the suffix .parquet",
    b"PK\3\4": "a zip archive, as Excel's files are; unpack it, or export it as CSV",
}
_OLD_ENDS = r"its lines end in carriage returns alone; convert them (tr '\r' '\n')"
_QUOTED = re.compile(rb'"[^"]*"?')


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
            size += skip_line(stream, data)
            yield Line(number, byte, None, byte + size)
        else:
            yield Line(number, byte, data.removeprefix(_BYTE_ORDER_MARK) if byte == 0 else data, byte + size)
        byte, number = byte + size, number + 1


def skip_line(stream: io.BufferedReader, begun: bytes) -> int:
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


def problem_of(head: bytes) -> str | None:
    """Why a file that begins with these bytes is no text in UTF-8 with lines, None where it may be."""
    if head.startswith(_OTHER_MARKS) or head[1:2] == b"\0":
        return "it is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
    if head.startswith(b"\0"):
        return "it begins with zero bytes, so it is no UTF-8 text"
    if other := next((name for magic, name in _OTHER_FILES.items() if head.startswith(magic)), None):
        return f"its content is {other}"
    # carriage returns within quotes may be anything
    return _OLD_ENDS if b"\n" not in head and b"\r" in _QUOTED.sub(b"", head).rstrip(b"\r") else None
