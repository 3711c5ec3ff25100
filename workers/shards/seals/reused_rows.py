"""Rows whose answers earlier attempts at the shard have sealed, read when it is their turn."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from parquetry.schemas.errors import StorageError
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.shards.seals.seal import SealInvalidError, decode
from parquetry.workers.shards.seals.seal_folder import SealFolder, SealName

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _OpenSeal:
    """A seal in memory, as long as rows of it may be asked for."""

    last: int
    rows: dict[int, Outcome]


class ReusedRows:
    """Asked for rows in ascending order, so that only seals with rows of about there are held in memory.

    A seal that is damaged, foreign or gone is passed over: its rows are computed again.
    """

    def __init__(
        self, folder: SealFolder | None, identity: str, *, num_samples: int | None = 1, num_withheld: int = 0
    ) -> None:
        """The first `num_withheld` rows that are sealed are not given out, so that an engine has rows it can answer.

        `num_samples` are the results of every row, None where rows differ in them.
        """
        self._folder, self._identity, self._num_samples = folder, identity, num_samples
        self._num_withheld = num_withheld
        #: not read yet
        self._names = [] if folder is None else _names(folder)
        self._open: list[_OpenSeal] = []

    def take(self, first: int, num_rows: int) -> dict[int, Outcome]:
        """Those of rows [first, first + num_rows) that are sealed, by their index among these."""
        stop = first + num_rows
        self._open = [seal for seal in self._open if seal.last >= first]
        while self._names and self._names[0].first < stop:
            self._read(self._names.pop(0))
        # of a row that two attempts have sealed, either will do
        found = {row: seal.rows[row] for seal in self._open for row in range(first, stop) if row in seal.rows}
        return {row - first: outcome for row, outcome in sorted(found.items()) if self._gives_out()}

    def _gives_out(self) -> bool:
        self._num_withheld -= 1
        return self._num_withheld < 0

    def _read(self, name: SealName) -> None:
        try:
            rows = self._decoded(name)
        except (SealInvalidError, StorageError) as error:
            log.warning("%s", error)
        else:
            self._open.append(_OpenSeal(name.last, rows))

    def _decoded(self, name: SealName) -> dict[int, Outcome]:
        assert self._folder is not None, "without a folder there is no name"
        path = self._folder.location(name.path)
        rows = decode(self._folder.read(name.path), self._identity, path=path, num_samples=self._num_samples)
        if min(rows) < name.first or max(rows) > name.last:
            raise SealInvalidError(path=path, reason="it holds rows that its name does not tell of")
        return rows


def _names(folder: SealFolder) -> list[SealName]:
    try:
        return folder.names()
    except StorageError as error:
        log.warning("what earlier attempts have sealed is computed again: %s", error)
        return []
