"""An object read as a file, and the object store's failures as ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from parquetry.schemas.errors import StorageError


class ObjectFile(io.RawIOBase):
    """An object as a seekable file; every read is one ranged request."""

    def __init__(self, store: ObjectStore, key: str, *, size: int) -> None:
        super().__init__()
        self._store, self._key, self._size, self._position = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        with storage_errors("reading", self._key):
            data = obstore.get_range(self._store, self._key, start=self._position, length=length)
        view[: len(data)] = memoryview(data)
        self._position += len(data)
        return len(data)


@contextmanager
def storage_errors(operation: str, path: object) -> Iterator[None]:
    """Raises StorageError for whatever the client raises."""
    try:
        yield
    # obstore raises ValueError for a key it cannot express and for a client it cannot configure
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(operation=operation, path=path, reason=first_line(error)) from error


def first_line(error: Exception) -> str:
    """The client's messages go on for pages of debug output; this is the sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
