"""Looks at the ledger for the page, once however many pages are open."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from parquetry.monitor.job_view import JobView, worker_as_dict
from parquetry.schemas.history import HistoryPoint
from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus, WorkerStatus

#: seconds within which pages that poll share one look at the ledger
REUSE_SECONDS = 0.5


class JobLedger(Protocol):
    """What the page needs of parquetry.tasks.ledger.ledger.Ledger."""

    def status(self, job: str) -> JobStatus: ...

    def jobs(self) -> list[JobStatus]:
        """Newest first."""
        ...

    def history(self, job: str) -> Sequence[HistoryPoint]: ...
    def workers(self) -> list[WorkerStatus]: ...
    def set_state(self, job: str, state: JobState) -> object: ...
    def retry(self, job: str) -> object: ...


class Observer:
    """Shows jobs and workers as plain data."""

    def __init__(self, ledger: JobLedger) -> None:
        self.ledger = ledger
        self._looked = float("-inf")
        self._jobs: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def jobs(self) -> list[dict[str, Any]]:
        """Every job's status, phase and progress as plain data, newest first."""
        with self._lock:
            if time.monotonic() - self._looked >= REUSE_SECONDS:
                self._jobs = self._look()
                self._looked = time.monotonic()
            return self._jobs

    def job(self, name: str) -> dict[str, Any]:
        """One job, its time left from its whole history. Raises UnknownJobError."""
        return look(self.ledger, name).as_dict()

    def workers(self) -> list[dict[str, Any]]:
        """Live workers as plain data."""
        return [worker_as_dict(worker) for worker in self.ledger.workers()]

    def forget(self) -> None:
        """Look again on the next poll, because a job was just changed."""
        with self._lock:
            self._looked = float("-inf")

    def _look(self) -> list[dict[str, Any]]:
        workers = self.ledger.workers()
        return [JobView.of(self._with_reasons(status), workers).as_dict() for status in self.ledger.jobs()]

    def _with_reasons(self, status: JobStatus) -> JobStatus:
        # a list of jobs comes without the reasons of failed shards
        return self.ledger.status(status.job) if status.shards_failed and not status.failures else status


def look(ledger: JobLedger, job: str) -> JobView:
    """One job now, with all that is known of its past. Raises UnknownJobError."""
    status = ledger.status(job)
    return JobView.of(status, ledger.workers(), ledger.history(status.job))
