"""Finds a Celery worker that lives but claims nothing, as after a lost connection that it never noticed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from parquetry.tasks.ledger.ledger import Ledger

#: Celery finds its broker again within about 30 s by itself
STALL_S = 60.0


class StallCheck:
    """How long one worker has left permits unclaimed although a child of it was free."""

    def __init__(
        self, worker: str, queues: Sequence[str], shards_in_flight: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._queues = queues
        self._shards_in_flight = shards_in_flight
        self._clock = clock
        #: when it was first seen to leave permits unclaimed
        self._since: float | None = None
        self._last_claim: str | None = None

    def is_stalled(self, ledger: Ledger) -> bool:
        """Ask every few seconds. True once STALL_S has passed with permits, a free child and not one claim."""
        last_claim = ledger.roster.last_claim(self._worker)
        if last_claim != self._last_claim or self._has_reason(ledger):
            self._last_claim, self._since = last_claim, None
            return False
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since > STALL_S

    def reset(self) -> None:
        """Start again for a worker that was just started."""
        self._since = None

    def _has_reason(self, ledger: Ledger) -> bool:
        """Whether it is right to claim nothing: no permit waits, or every child runs a shard."""
        waiting = any(ledger.permits(queue) for queue in self._queues)
        return not waiting or len(ledger.holdings(self._worker)) >= self._shards_in_flight
