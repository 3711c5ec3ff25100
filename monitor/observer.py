"""Looks at the ledger for the page, once however many pages are open."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from parquetry.monitor.job_view import JobView, worker_as_dict
from parquetry.monitor.metrics.metrics import render
from parquetry.monitor.metrics.shown_jobs import ShownJobs
from parquetry.monitor.progress.in_flight import WorkInFlight
from parquetry.monitor.watcher import Watcher
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus, WorkerStatus
from parquetry.tasks.ledger.job_index import JobLine
from parquetry.tasks.ledger.ledger import Ledger

#: seconds within which pages share one look at the ledger
REUSE_SECONDS = 0.5
#: looks that are remembered, and jobs whose past is
_MOST_LOOKS = 200
DEFAULT_SIZE = 25
MAX_SIZE = 200
T = TypeVar("T")


class Observer:
    """Shows jobs and workers as plain data."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._looks: dict[tuple[object, ...], tuple[float, Any]] = {}
        self._watchers: dict[str, Watcher] = {}
        self._shown = ShownJobs(ledger)
        self._lock = threading.Lock()

    def jobs(self, search: str = "", state: str = "", page: int = 1, size: int = DEFAULT_SIZE) -> dict[str, Any]:
        """One page of the jobs that a search finds, the newest first, and how many are in which state."""
        size = min(max(size, 1), MAX_SIZE)
        return self._shared(("jobs", search, state, page, size), lambda: self._page(search, state, page, size))

    def job(self, name: str) -> dict[str, Any]:
        """One job, its time left from its whole history, and its workers. Raises UnknownJobError."""
        return self._shared(("job", name), lambda: self._watched(name))

    def workers(self) -> list[dict[str, Any]]:
        """Live workers as plain data."""
        return self._shared(("workers",), lambda: [worker_as_dict(worker) for worker in self.ledger.workers()])

    def metrics(self) -> bytes:
        """What Prometheus reads."""
        return self._shared(("metrics",), self._metrics)

    def _metrics(self) -> bytes:
        shown = self._shown.find()
        return render(shown.statuses, self.ledger.workers(), shown.states)

    def forget(self) -> None:
        """Look again, because something was just changed."""
        with self._lock:
            self._looks.clear()

    def _shared(self, key: tuple[object, ...], look: Callable[[], T]) -> T:
        """What the last look found, if that was a moment ago. One look at a time: the pages would all ask the same."""
        with self._lock:
            looked, found = self._looks.pop(key, (float("-inf"), None))
            if time.monotonic() - looked >= REUSE_SECONDS:
                found, looked = look(), time.monotonic()
            self._looks[key] = (looked, found)
            while len(self._looks) > _MOST_LOOKS:
                del self._looks[next(iter(self._looks))]
            return found

    def _page(self, search: str, state: str, page: int, size: int) -> dict[str, Any]:
        lines = _found(self.ledger.index.lines(), search)
        counts = Counter(line.state.value for line in lines)
        wanted = [line for line in lines if not state or line.state.value == state]
        pages = max(1, -(-len(wanted) // size))
        page = min(max(page, 1), pages)
        shown = wanted[(page - 1) * size : page * size]
        workers = self.ledger.workers()
        jobs = [self._line(line.job, workers) for line in shown]
        numbers = {"total": len(wanted), "page": page, "pages": pages, "size": size}
        return {"jobs": jobs, "counts": counts, **numbers, "workers": [worker_as_dict(worker) for worker in workers]}

    def _line(self, job: str, workers: Sequence[WorkerStatus]) -> dict[str, Any]:
        """A job of the list; what is left of one that runs is told from its history, as on its own page."""
        status = self.ledger.status(job)
        is_running = status.state is JobState.RUNNING and status.shards_computing > 0
        return (self._view(status) if is_running else JobView.of(status, workers)).as_dict()

    def _watched(self, name: str) -> dict[str, Any]:
        status = self.ledger.status(name)
        view = self._view(status)
        workers = [worker_as_dict(worker) for worker in view.workers]
        return {**view.as_dict(), "workers_now": workers, "in_flight": asdict(WorkInFlight.of(status))}

    def _view(self, status: JobStatus) -> JobView:
        watcher = self._watchers.pop(status.job, None) or Watcher(self.ledger)
        self._watchers[status.job] = watcher
        while len(self._watchers) > _MOST_LOOKS:
            del self._watchers[next(iter(self._watchers))]
        return watcher.view(status)


def _found(lines: Sequence[JobLine], search: str) -> Sequence[JobLine]:
    """The jobs whose line has every word of the search."""
    words = search.lower().split()
    return [line for line in lines if all(word in line.text for word in words)] if words else lines


def look(ledger: Ledger, job: str) -> JobView:
    """One job now, with all that is known of its past. Raises UnknownJobError."""
    status = ledger.status(job)
    return JobView.of(status, ledger.workers(), ledger.history(status.job))
