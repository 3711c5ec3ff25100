"""A private folder for sockets and logs that is gone when its owner is, however the owner ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: held for as long as its owner lives: no answer in time and no process id can be mistaken for that
LOCK = "owner.lock"
#: of the folder of a node
NODE_PREFIX = "parquetry-node-"


@contextmanager
def owned_folder(prefix: str, root: Path | None = None) -> Iterator[Path]:
    """A folder of this process's own below `root`, by default the temporary folder, removed on the way out.

    Folders of the same prefix whose owners were killed are removed first.
    """
    root = root or Path(tempfile.gettempdir())
    sweep(prefix, root)
    temporary = tempfile.TemporaryDirectory(prefix=prefix, dir=root, ignore_cleanup_errors=True)
    # not inherited by children: it ends with this process alone
    with temporary as name, (Path(name) / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def sweep(prefix: str, root: Path | None = None) -> None:
    """Remove the folders of owners that are gone; what is no folder of ours, or of somebody else's, stays."""
    root = root or Path(tempfile.gettempdir())
    for folder in root.glob(f"{prefix}*"):
        if not folder.is_symlink() and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    # without a lock it is being made, or not ours
    with suppress(OSError):
        if folder.stat().st_uid != os.getuid():
            return False
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
