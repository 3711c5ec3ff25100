"""Notices a Celery worker that lives but serves nothing: a lost connection it never learnt of looks like that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from parquetry.tasks.ledger.ledger import Ledger

#: Celery finds its broker again within about 30 s by itself
PATIENCE_S = 60.0


class Silence:
    """How long one worker has left permits lying although it had a free slot."""

    def __init__(
        self, worker: str, queues: Sequence[str], slots: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._queues = queues
        self._slots = slots
        self._clock = clock
        self._since: float | None = None
        self._asked: str | None = None

    def is_too_long(self, ledger: Ledger) -> bool:
        """Ask every few seconds. True once PATIENCE_S has passed without a single CLAIM that could have come."""
        asked = ledger.roster.last_claim(self._worker)
        if asked != self._asked or self._is_excused(ledger):
            self._asked, self._since = asked, None
            return False
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since > PATIENCE_S

    def forget(self) -> None:
        """Start anew, with a worker that was just started."""
        self._since = None

    def _is_excused(self, ledger: Ledger) -> bool:
        waiting = any(ledger.permits(queue) for queue in self._queues)
        return not waiting or len(ledger.holdings(self._worker)) >= self._slots
