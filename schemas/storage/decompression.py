"""A compressed file as the text it holds, read from its beginning."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import pyarrow as pa

from parquetry.schemas.formats import Compression

#: one request to an object store
_READ_BYTES = 4 << 20


def open_text(stream: BinaryIO, compression: Compression | None) -> io.BufferedReader:
    """The uncompressed bytes of an open file; seekable only where it is not compressed.

    Reading raises OSError (without an error number) where the content is not what `compression` says.
    """
    raw: Any = stream
    if compression is None:
        return io.BufferedReader(raw, _READ_BYTES)
    return io.BufferedReader(_Uncompressed(io.BufferedReader(raw, _READ_BYTES), compression), _READ_BYTES)


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
