"""Replacing a file in a local or network file system.

A rename replaces in one step, and asks nobody. So each try has a folder of its own, its gate, and the new file is
renamed out of it: who comes later removes the gates of those before, and their renames find nothing to rename.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parquetry.schemas.storage.files import make_folder, sync, translated
from parquetry.schemas.storage.replacement import Replacement


class LocalReplacement(Replacement):
    """`gates` is the folder for the gates of this one file."""

    def __init__(self, target: Path, gates: Path) -> None:
        self._target, self._gates = target, gates
        self._gate = gates / uuid.uuid4().hex
        # the same name as the target's, for messages
        self._path = self._gate / target.name

    @property
    def path(self) -> Path:
        return self._path

    def shut_others(self) -> None:
        with translated("removing", self._gates):
            for other in self._gates.iterdir():
                if other != self._gate:
                    _remove(other)

    def replace(self) -> bool:
        with translated("replacing", self._target):
            try:
                sync(self._path)
                os.replace(self._path, self._target)
            except FileNotFoundError:
                return False
            sync(self._target.parent)
        return True


@contextmanager
def replacing(target: Path, gates: Path) -> Iterator[LocalReplacement]:
    """A try at replacing `target`; its gate is gone on exit."""
    found = LocalReplacement(target, gates)
    gate = found.path.parent
    with translated("creating", gate):
        make_folder(gate)
    try:
        yield found
    finally:
        shutil.rmtree(gate, ignore_errors=True)


def _remove(gate: Path) -> None:
    """Remove a gate with what is in it; its owner, or another who has come, may remove it at the same time."""
    # at one instant for all on this machine; on a network others may still hold the folder, until it is removed
    shut = gate.with_name(f"{gate.name}.shut")
    with suppress(FileNotFoundError):
        os.rename(gate, shut)
        try:
            for file in shut.iterdir():
                file.unlink(missing_ok=True)
            shut.rmdir()
        except OSError as error:
            # a network file system keeps what is open here under another name, which nobody renames over the target
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise
