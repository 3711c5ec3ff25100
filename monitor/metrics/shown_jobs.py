"""Which jobs have numbers of their own for Prometheus: those that somebody may still care for; the rest is counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.tasks.ledger.job_index import JobLine
from parquetry.tasks.ledger.ledger import Ledger

#: a job that has ended is shown for so long after, so that its last numbers are read
LINGER_S = 600.0
#: failed jobs are shown until they are retried or forgotten, the newest ones
MOST_FAILED = 50
#: and of all together
MOST_SHOWN = 500


class Shown(NamedTuple):
    """What one scrape is about."""

    statuses: list[JobStatus]
    #: of all jobs
    states: dict[JobState, int]


class ShownJobs:
    """Remembers which jobs were live, for as long as they linger. Not for two threads at once."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._live_at: dict[str, float] = {}

    def find(self) -> Shown:
        """As of now; the work is bounded however many jobs the queue knows. Raises BrokerUnreachableError."""
        lines = self._ledger.index.lines()
        wanted = self._wanted(lines)[:MOST_SHOWN]
        statuses = [self._ledger.status(job, max_failures=0) for job in wanted]
        counts = Counter(line.state for line in lines)
        return Shown(statuses, {state: counts[state] for state in JobState})

    def _wanted(self, lines: Sequence[JobLine]) -> list[str]:
        """The live ones first, then those that were a moment ago, then failed ones; each the newest first."""
        now, known = self._clock(), {line.job for line in lines}
        live = [line.job for line in lines if not line.state.is_final]
        kept = {job: at for job, at in self._live_at.items() if now - at < LINGER_S and job in known}
        self._live_at = {**kept, **dict.fromkeys(live[:MOST_SHOWN], now)}
        failed = [line.job for line in lines if line.state is JobState.FAILED][:MOST_FAILED]
        return list(dict.fromkeys([*live, *self._live_at, *failed]))
