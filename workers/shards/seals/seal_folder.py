"""Where the seals of one shard lie: `_attempts/sealed/00000042/`, beside the output, one immutable file each."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import ATTEMPTS_FOLDER
from parquetry.schemas.shard import Shard
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage

log = logging.getLogger(__name__)
SEALS_FOLDER = "sealed"
#: first and last row are in the name, so that a seal is not read before its rows are due
_NAME = re.compile(r"(?P<first>\d{1,18})-(?P<last>\d{1,18})\.\d+\.[0-9a-f]+\.seal")


@dataclass(frozen=True, order=True)
class SealName:
    """A seal that is there: no row outside [first, last] is in it."""

    first: int
    last: int
    path: str


class SealFolder:
    """The seals of one shard; every attempt at it may add some. All raise StorageError.

    `before` and `after` are called around each seal that is written, for tests to strike at.
    """

    def __init__(
        self,
        storage: Storage,
        shard: Shard,
        fence: int,
        *,
        before: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage, self._shard, self._fence = storage, shard, fence
        self._name = f"{SEALS_FOLDER}/{shard.index:08d}"
        self._before, self._after = before, after
        #: whether there is anything to discard
        self.is_used = False

    def names(self) -> list[SealName]:
        """Those that may hold rows of the shard, by their first row."""
        entries = self._storage.list(f"{ATTEMPTS_FOLDER}/{self._name}/")
        self.is_used = self.is_used or bool(entries)
        found = [(_NAME.fullmatch(entry.path.rpartition("/")[2]), entry.path) for entry in entries]
        return sorted(SealName(int(match["first"]), int(match["last"]), path) for match, path in found if match)

    def read(self, path: str) -> bytes:
        """The bytes of a seal; b"" when somebody has removed it."""
        return self._storage.try_read(path) or b""

    def location(self, path: str) -> Location:
        """Where a seal lies, for messages."""
        return self._storage.root.join(path)

    def put(self, first: int, last: int, data: bytes) -> None:
        """Write one seal. Its name is taken by nobody else: a fence may come twice once the queue was lost."""
        self._before()
        name = f"{first}-{last}.{self._fence}.{uuid.uuid4().hex[:8]}.seal"
        self.is_used = True
        self._storage.put(f"{ATTEMPTS_FOLDER}/{self._name}/{name}", data)
        self._after()

    def discard(self) -> None:
        """Remove them all; for a shard whose part is there."""
        if self.is_used:
            self._storage.discard_attempts(self._name)


def try_to_discard_seals(output: str) -> None:
    """Remove those of all shards, for a job that was cancelled; only warns when they can't be removed."""
    try:
        open_storage(Location.parse(output)).discard_attempts(SEALS_FOLDER)
    except ParquetryError as error:
        log.warning("%s", error)
