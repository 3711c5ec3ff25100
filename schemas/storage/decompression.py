"""A compressed file as the text it holds, read from its beginning."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import pyarrow as pa

from parquetry.schemas.spec.formats import Compression, compression_of_content

#: one request to an object store
_READ_BYTES = 4 << 20


def open_text(stream: BinaryIO, compression: Compression | None) -> io.BufferedReader:
    """The uncompressed bytes of an open file; seekable only where it is not compressed.

    `compression` is what the name says; content that says another is believed. Reading raises OSError (without an error
    number) where it is neither.
    """
    raw: Any = stream
    file = io.BufferedReader(raw, _READ_BYTES)
    compression = compression_of_content(file.peek(8)[:8]) or compression
    return file if compression is None else io.BufferedReader(_Uncompressed(file, compression), _READ_BYTES)


class _Uncompressed(io.RawIOBase):
    """Arrow's streams have no buffered readline; this gives them one."""

    def __init__(self, file: BinaryIO, compression: Compression) -> None:
        super().__init__()
        self._file = file
        self._stream = pa.CompressedInputStream(file, compression)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()
