"""Looks at the ledger for the page: statuses, and the progress their history shows."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from parquetry.monitor.job_progress import History, JobProgress
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

    def workers(self) -> list[WorkerStatus]: ...
    def set_state(self, job: str, state: JobState) -> object: ...
    def retry(self, job: str) -> object: ...


class Observer:
    """Keeps each job's recent statuses, however many pages are open."""

    def __init__(self, ledger: JobLedger) -> None:
        self.ledger = ledger
        self._histories: dict[str, History] = {}
        self._looked = float("-inf")
        self._jobs: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def jobs(self) -> list[dict[str, Any]]:
        """Every job's status and progress as plain data, newest first."""
        with self._lock:
            if time.monotonic() - self._looked >= REUSE_SECONDS:
                self._jobs = self._look()
                self._looked = time.monotonic()
            return self._jobs

    def job(self, name: str) -> dict[str, Any]:
        """One job. Raises UnknownJobError."""
        status = self.ledger.status(name)
        with self._lock:
            return describe_job(status, self._progress(status))

    def workers(self) -> list[dict[str, Any]]:
        """Live workers as plain data."""
        return [worker.model_dump(mode="json") for worker in self.ledger.workers()]

    def forget(self) -> None:
        """Look again on the next poll, because a job was just changed."""
        with self._lock:
            self._looked = float("-inf")

    def _look(self) -> list[dict[str, Any]]:
        statuses = [self._with_reasons(status) for status in self.ledger.jobs()]
        known = {status.job for status in statuses}
        self._histories = {job: history for job, history in self._histories.items() if job in known}
        return [describe_job(status, self._progress(status)) for status in statuses]

    def _with_reasons(self, status: JobStatus) -> JobStatus:
        # a list of jobs comes without the reasons of failed shards
        return self.ledger.status(status.job) if status.shards_failed and not status.failures else status

    def _progress(self, status: JobStatus) -> JobProgress:
        return self._histories.setdefault(status.job, History()).add(status)


def describe_job(status: JobStatus, progress: JobProgress) -> dict[str, Any]:
    """What `--json` and the page's API show of a job."""
    return {**status.model_dump(mode="json"), "progress": progress.as_dict()}
