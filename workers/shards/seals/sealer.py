"""Writes the finished rows of a running attempt as seals, in a thread of its own: the attempt waits for none of it.

What an attempt has sealed, the next attempt at the shard need not compute, however this one ends. Only rows without an
error are sealed: another try may answer the others.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from parquetry.schemas.errors import ParquetryError
from parquetry.workers.shards.pending_rows import Outcome
from parquetry.workers.shards.seals.seal import FinishedRow, encode
from parquetry.workers.shards.seals.seal_folder import SealFolder

log = logging.getLogger(__name__)
#: of a long shard this part of its time goes by between two seals, so that their number is bounded
INTERVAL_SHARE = 0.01
#: results are sealed before their time when they hold so many bytes
MAX_SEAL_BYTES = 32 << 20
#: results that storage is too slow for are not sealed
MAX_WAITING_BYTES = 128 << 20
#: seals that fail one after the other before no more are tried
MAX_FAILURES = 3


class Sealer:
    """To be used by one thread. A seal that fails costs no more than itself: the attempt goes on."""

    def __init__(self, folder: SealFolder | None, identity: str, every_s: float) -> None:
        """Seals are `every_s` seconds apart, without a folder there are none; `identity` is what makes an answer."""
        self._folder, self._identity, self._every_s = folder, identity, every_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal")
        self._begun = self._last = time.monotonic()
        self._waiting: list[FinishedRow] = []
        self._waiting_bytes = 0
        #: the rows that the thread has, and what becomes of them
        self._in_hand: list[FinishedRow] = []
        self._writing: Future[None] | None = None
        self._failures = 0
        self.num_sealed = 0

    def add(self, row: int, outcome: Outcome) -> None:
        """Take over a finished row, by its position in the job's input."""
        if outcome.error is not None or self._is_off or self._waiting_bytes > MAX_WAITING_BYTES:
            return
        self._waiting.append((row, outcome))
        self._waiting_bytes += outcome.num_bytes

    @property
    def _is_off(self) -> bool:
        return self._folder is None or self._failures >= MAX_FAILURES

    def tick(self) -> None:
        """Begin a seal when it is time for one. Returns at once."""
        if self._writing is not None and self._writing.done():
            self._settle()
        if self._writing is None and self._is_due():
            self._write()

    def _is_due(self) -> bool:
        now = time.monotonic()
        pause_s = max(self._every_s, INTERVAL_SHARE * (now - self._begun))
        is_time = now - self._last >= pause_s or self._waiting_bytes >= MAX_SEAL_BYTES
        return is_time and bool(self._waiting) and not self._is_off

    def _write(self) -> None:
        self._last = time.monotonic()
        self._in_hand, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._writing = self._thread.submit(self._seal, self._in_hand)

    def _seal(self, rows: list[FinishedRow]) -> None:
        assert self._folder is not None, "without a folder no row waits"
        numbers = [row for row, _ in rows]
        self._folder.put(min(numbers), max(numbers), encode(rows, self._identity))

    def _settle(self) -> None:
        """Take note of how a seal ended. Rows of one that failed wait for the next."""
        assert self._writing is not None
        try:
            self._writing.result()
            self._failures, self.num_sealed = 0, self.num_sealed + len(self._in_hand)
        except (ParquetryError, OSError, pa.ArrowException) as error:
            self._failures += 1
            log.warning("finished rows could not be sealed: %s", error)
            self._waiting = [*self._in_hand, *self._waiting]
            self._waiting_bytes = sum(outcome.num_bytes for _, outcome in self._waiting)
        self._writing, self._in_hand = None, []

    def close(self, *, will_go_on: bool) -> None:
        """End the thread; what is not sealed yet is, if another attempt `will_go_on` with the shard."""
        if self._writing is not None and will_go_on:
            self._writing.exception()
            self._settle()
        if self._waiting and will_go_on and not self._is_off:
            self._write()
        # waits for the seal that is being written
        self._thread.shutdown()
        if self._writing is not None:
            self._settle()
        self._waiting, self._waiting_bytes = [], 0
