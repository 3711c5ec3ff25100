"""Files and folders that outlast a power failure, and the failures of a file system as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from parquetry.schemas.errors import StorageError


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


@contextmanager
def translated(operation: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Arrow's text says more before the reason, and what shows it may have little room
        reason = os.strerror(error.errno) if error.errno else error.strerror or str(error)
        raise StorageError(operation=operation, path=path, reason=reason) from error
