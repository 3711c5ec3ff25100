"""Storage in a local or network file system: attempts are linked to their final name, which cannot overwrite."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from parquetry.schemas.errors import LocationError, PutIfAbsentError, StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import ATTEMPTS_FOLDER
from parquetry.schemas.storage.files import make_folder, sync, translated
from parquetry.schemas.storage.local_replacement import replacing
from parquetry.schemas.storage.replacement import Replacement
from parquetry.schemas.storage.storage import Entry, Storage

#: how often attempts are deleted that others write, and written that others delete
_TRIES = 10
T = TypeVar("T")


class LocalStorage(Storage):
    """Files of a folder, which is created by the first write."""

    def __init__(self, root: Location) -> None:
        super().__init__(root)
        self._root = Path(root.path)

    def list(self, prefix: str = "") -> list[Entry]:
        folder = prefix.rpartition("/")[0]
        top = self._path(folder) if folder else self._root
        with translated("listing", top):
            found = [entry for entry in self._walk(top, trail=()) if entry.path.startswith(prefix)]
        return sorted(found, key=lambda entry: entry.path)

    def _walk(self, folder: Path, *, trail: tuple[str, ...]) -> Iterator[Entry]:
        real = os.path.realpath(folder)
        # a link back to a folder above would never end
        if real in trail or not os.path.isdir(real):
            return
        for child in _children(folder):
            if child.is_dir():
                yield from self._walk(Path(child.path), trail=(*trail, real))
            elif (entry := self._entry(Path(child.path))) is not None:
                yield entry
            elif child.is_symlink() and os.path.lexists(child.path):
                raise StorageError(operation="listing", path=child.path, reason="the link points nowhere")

    def head(self, path: str) -> Entry | None:
        target = self._path(path)
        with translated("looking up", target):
            return self._entry(target)

    def _entry(self, path: Path) -> Entry | None:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not os.path.isfile(path):
            return None
        etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return Entry(path=path.relative_to(self._root).as_posix(), size=status.st_size, etag=etag)

    def try_read(self, path: str) -> bytes | None:
        target = self._path(path)
        with translated("reading", target):
            try:
                return target.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, path: str) -> BinaryIO:
        target = self._path(path)
        with translated("opening", target):
            return target.open("rb")

    def put(self, path: str, data: bytes) -> None:
        _until_kept(lambda: self._put(path, data))

    def _put(self, path: str, data: bytes) -> None:
        target = self._path(path)
        with self.attempt(target.name) as attempt, translated("writing", target):
            attempt.write_bytes(data)
            sync(attempt)
            make_folder(target.parent)
            os.replace(attempt, target)
            sync(target.parent)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        return self.head(path) is None and _until_kept(lambda: self._put_if_absent(path, data))

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        with self.attempt(Path(path).name) as attempt:
            with translated("writing", attempt):
                attempt.write_bytes(data)
            return self.publish(attempt, path)

    @contextmanager
    def attempt(self, name: str) -> Iterator[Path]:
        # random, since fencing tokens start again after the queue's state was lost
        stem, suffix = os.path.splitext(os.path.basename(name))
        path = self._root / ATTEMPTS_FOLDER / f"{stem}.{uuid.uuid4().hex[:8]}{suffix}"
        with translated("creating", path):
            make_folder(path.parent)
        try:
            yield path
        finally:
            # the folder stays: another process may be about to write into it
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def publish(self, attempt: Path, name: str) -> bool:
        target = self._path(name)
        with translated("publishing", target):
            sync(attempt)
            make_folder(target.parent)
            won = _link(attempt, target)
            sync(target.parent)
            if won:
                attempt.unlink(missing_ok=True)
        return won

    def replacement(self, path: str) -> AbstractContextManager[Replacement]:
        return replacing(self._path(path), self._root / ATTEMPTS_FOLDER / f"{path}.gates")

    def delete(self, path: str) -> None:
        target = self._path(path)
        with translated("deleting", target):
            target.unlink(missing_ok=True)

    def discard_attempts(self, folder: str = "") -> None:
        top = self._root / ATTEMPTS_FOLDER / folder
        with translated("deleting", top):
            # what is written while it goes stays: somebody is at work there
            any(_is_deleted(top) for _ in range(_TRIES))

    def check_put_if_absent(self) -> None:
        if self._root.exists() and not self._root.is_dir():
            raise LocationError(uri=self.root, reason="it is a file, not a folder")
        # beside a folder that is not there yet: a refused job must leave no trace
        near = next(folder for folder in (self._root, *self._root.parents) if folder.is_dir())
        with (
            translated("writing", near),
            tempfile.TemporaryDirectory(dir=near, prefix=".parquetry-check-") as name,
        ):
            folder = Path(name)
            (folder / "attempt").write_bytes(b"check")
            try:
                _link(folder / "attempt", folder / "final")
            except OSError as error:
                raise PutIfAbsentError(path=self.root, reason=f"hard links fail: {error.strerror}") from error
            (folder / "second").write_bytes(b"check")
            self.require_refusal(second_create=_link(folder / "second", folder / "final"))

    def _path(self, path: str) -> Path:
        return Path(self.root.join(path).path)


def _until_kept(write: Callable[[], T]) -> T:
    """What `write` returns, tried again where another process discarded its attempt with all others meanwhile."""
    for _ in range(_TRIES - 1):
        try:
            return write()
        except StorageError as error:
            # a folder that goes while it is made is said to exist
            if not isinstance(error.__cause__, (FileNotFoundError, FileExistsError)):
                raise
    return write()


def _is_deleted(folder: Path) -> bool:
    """Delete a folder with all that it holds; False where others delete or write there just now."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return not folder.exists()
    except OSError as error:
        # a network file system keeps a file that is open here, under another name
        if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
            raise
        return False
    return True


def _children(folder: Path) -> list[os.DirEntry[str]]:
    """What the folder holds: nothing where another process deleted it meanwhile, as the check of a submission does."""
    try:
        with os.scandir(folder) as children:
            return list(children)
    except FileNotFoundError:
        return []


def _link(attempt: Path, target: Path) -> bool:
    """Whether `target` is now the attempt's file; False when another file has that name."""
    try:
        os.link(attempt, target)
    except FileExistsError:
        # a network file system may repeat a request whose answer was lost, and then refuse its own link
        return os.path.samefile(attempt, target)
    return True
