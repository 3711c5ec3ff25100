"""The history of a job beside its output: written when the job stops, read when it is entered into a queue again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE
from parquetry.schemas.progress.history import HISTORY_FILE, HistoryPoint, JobHistory, KeptBudget
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
Noted = TypeVar("Noted", bound=tuple)
#: events, and ends of shards, that the file holds
MAX_KEPT = 2000


def keep_history(ledger: Ledger, job: str, output: str) -> None:
    """Write what the queue knows of the job's past into its output. Raises StorageError, BrokerUnreachableError."""
    points, storage = ledger.history(job), open_storage(Location.parse(output))
    # an output that somebody has deleted stays deleted
    if points and storage.head(JOB_FILE) is not None:
        # what a queue before this one has told is in the file alone
        before = read_history(storage, job) or JobHistory.of(job, ())
        events = _together(before.events, ledger.shards.events(job))
        ends = _together(before.ends, ledger.shards.ends(job))
        status = ledger.status(job, max_failures=0)
        kept = JobHistory.of(job, points, events, ends, status.prediction or before.prediction, _budget(status))
        storage.put(HISTORY_FILE, kept.model_dump_json().encode())


def _budget(status: JobStatus) -> KeptBudget:
    seconds = status.budget_gpu_seconds
    return KeptBudget(
        ms=None if seconds is None else round(1000 * seconds), price_per_gpu_hour=status.price_per_gpu_hour
    )


def _together(earlier: Iterable[Noted], later: Iterable[Noted]) -> list[Noted]:
    """Both in the order of time, each once, the last of them."""
    return sorted(dict.fromkeys((*earlier, *later)), key=lambda noted: noted[0])[-MAX_KEPT:]


def try_to_keep_history(ledger: Ledger, job: str, output: str) -> None:
    """The same where nothing may depend on it: only warns when it can't be written."""
    try:
        keep_history(ledger, job, output)
    except ParquetryError as error:
        log.warning("job %s: its history was not written: %s", job, error)


def kept_history(storage: Storage, job: str) -> tuple[HistoryPoint, ...]:
    """The points that an output holds of a job; () where there are none, or none of this job. Raises StorageError."""
    found = read_history(storage, job)
    return () if found is None else found.read()


def read_history(storage: Storage, job: str) -> JobHistory | None:
    """What an output holds of the past of a job, None where there is nothing of this job. Raises StorageError."""
    data = storage.try_read(HISTORY_FILE)
    if data is None:
        return None
    try:
        found = JobHistory.model_validate_json(data)
    except ValidationError as error:
        log.warning("%s is not readable: %s", storage.root.join(HISTORY_FILE), error.errors()[0]["msg"])
        return None
    return found if found.job == job else None
