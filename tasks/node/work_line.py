"""A line a minute of what a node does, while it does something."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
LINE_S = 60.0


class WorkLine:
    """Counts the rows of a node's workers, and says how fast they come."""

    def __init__(self, workers: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers, self._clock = workers, clock
        self._told, self._rows = clock(), 0

    def tell_if_due(self, ledger: Ledger) -> None:
        """Write the line when a minute has passed in which a row was finished, or a shard is held now.

        Raises BrokerUnreachableError.
        """
        seconds = self._clock() - self._told
        if seconds < LINE_S:
            return
        rows = sum(map(ledger.rows_of, self._workers))
        held = [claim for worker in self._workers for claim in ledger.holdings(worker)]
        if rows != self._rows or held:
            # a shard that was given back takes its rows along
            rate = max(rows - self._rows, 0) / seconds
            jobs = ", ".join(sorted({claim.job for claim in held})) or "none"
            log.info("%.1f rows/s, %d rows so far; %d shards in hand of jobs: %s", rate, rows, len(held), jobs)
        self._told, self._rows = self._clock(), rows
