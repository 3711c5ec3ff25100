"""Files of one folder, local or in an object store, behind one interface whose creates never overwrite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from parquetry.schemas.errors import PutIfAbsentError, StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.storage.replacement import Replacement


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file."""

    #: relative to the storage's root
    path: str
    #: bytes
    size: int
    #: changes whenever the content does
    etag: str


class Storage(ABC):
    """The files below `root`. Every path is relative to it. Failures are StorageErrors, which may be retried."""

    def __init__(self, root: Location) -> None:
        self.root = root

    @abstractmethod
    def list(self, prefix: str = "") -> list[Entry]:
        """Files whose path starts with `prefix`, at any depth, sorted by path; [] when nothing is there."""

    @abstractmethod
    def head(self, path: str) -> Entry | None:
        """The file's entry; None when there is no such file (a folder is none)."""

    @abstractmethod
    def try_read(self, path: str) -> bytes | None:
        """The whole content, None when there is no such file."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A seekable file to read, as pyarrow takes it."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write the file in one step, over an older one. Durable on return."""

    @abstractmethod
    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write the file in one step; False, and nothing changed, when it is there already. Durable on return."""

    @abstractmethod
    def attempt(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write one attempt to; nobody else is given the same one. Removed on exit."""

    @abstractmethod
    def publish(self, attempt: Path, name: str) -> bool:
        """Give a closed attempt its final name; False, and nothing changed, when that is taken. Durable on return."""

    @abstractmethod
    def replacement(self, path: str) -> AbstractContextManager[Replacement]:
        """One try at replacing a file that is there by another in one step."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the file; one that is not there counts as removed."""

    @abstractmethod
    def discard_attempts(self, folder: str = "") -> None:
        """Remove what attempts left behind, or a folder of it; for a job, or for that much of it, that has ended."""

    @abstractmethod
    def check_put_if_absent(self) -> None:
        """Create one file twice, clean up, and raise PutIfAbsentError unless the second create was refused."""

    def read(self, path: str) -> bytes:
        """The whole content. Raises StorageError when there is no such file."""
        data = self.try_read(path)
        if data is None:
            raise StorageError(operation="reading", path=self.root.join(path), reason="there is no such file")
        return data

    def require_refusal(self, *, second_create: bool) -> None:
        """Raise PutIfAbsentError when the second create of one file reported success."""
        if second_create:
            raise PutIfAbsentError(path=self.root, reason="a second create of the same file succeeded")
