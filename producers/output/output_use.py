"""Whether a `parquetry run` of this machine is at work on an output: its queue is its own, so no ledger tells."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from parquetry.schemas.location import Location


@contextmanager
def in_use(output: Location) -> Iterator[None]:
    """Say so for as long as the context or the process lasts; of a folder of this machine only."""
    folder = _opened(output)
    try:
        if folder is not None:
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        if folder is not None:
            os.close(folder)


def is_in_use(output: Location) -> bool:
    """Whether a process that lives has said so. A file system without locks does not tell."""
    folder = _opened(output)
    if folder is None:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(folder)
    return False


def _opened(output: Location) -> int | None:
    """The folder, whose lock is taken, since no file in it stays the same one."""
    with suppress(OSError):
        return os.open(output.path, os.O_RDONLY | os.O_DIRECTORY) if output.is_local else None
    return None
