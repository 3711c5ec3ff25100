"""Looks at one job again and again, and asks for what changes slowly only now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from parquetry.monitor.job_view import JobView
from parquetry.monitor.progress.job_progress import point_now
from parquetry.monitor.progress.pace import changes
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.status import JobStatus, WorkerStatus

#: the roster is asked for so often; nodes announce a change within a fifth of a second
WORKERS_S = 1.0
#: the whole history, which may be 60 KB, so often; the status itself carries what present rates need
HISTORY_S = 10.0


class WatchedLedger(Protocol):
    """What a watcher needs of parquetry.tasks.ledger.ledger.Ledger."""

    def workers(self) -> list[WorkerStatus]: ...
    def history(self, job: str) -> Sequence[HistoryPoint]: ...


class Watcher:
    """Makes views of one job's statuses as they come."""

    def __init__(self, ledger: WatchedLedger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._workers: Sequence[WorkerStatus] = ()
        self._history: Sequence[HistoryPoint] = ()
        #: seen since the history was read, whenever something had changed: between two beats nothing does
        self._seen: list[HistoryPoint] = []
        self._workers_at = self._history_at = float("-inf")

    def view(self, status: JobStatus) -> JobView:
        """The job at this status."""
        now = self._clock()
        if now - self._workers_at >= WORKERS_S or status.state.is_final:
            self._workers, self._workers_at = self._ledger.workers(), now
        if now - self._history_at >= HISTORY_S or status.state.is_final:
            self._history, self._history_at = self._ledger.history(status.job), now
        return JobView.of(status, self._workers, self._with_seen(status))

    def _with_seen(self, status: JobStatus) -> list[HistoryPoint]:
        """The history, and what was seen after it."""
        last = self._history[-1] if self._history else HistoryPoint(0)
        self._seen = [point for point in self._seen if point.at_ms > last.at_ms]
        before = self._seen[-1] if self._seen else last
        found = point_now(status, last)
        if found.at_ms > before.at_ms and len(changes([before, found])) > 1:
            self._seen.append(found)
        return [*self._history, *self._seen]
