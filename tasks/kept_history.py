"""The history of a job beside its output: written when the job stops, read when it is entered into a queue again."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.history import HISTORY_FILE, HistoryPoint, JobHistory
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)


def keep_history(ledger: Ledger, job: str, output: str) -> None:
    """Write what the queue knows of the job's past into its output. Raises StorageError, BrokerUnreachableError."""
    points, storage = ledger.history(job), open_storage(Location.parse(output))
    # an output that somebody has deleted stays deleted
    if points and storage.head(JOB_FILE) is not None:
        storage.put(HISTORY_FILE, JobHistory.of(job, points).model_dump_json().encode())


def try_to_keep_history(ledger: Ledger, job: str, output: str) -> None:
    """The same where nothing may depend on it: only warns when it can't be written."""
    try:
        keep_history(ledger, job, output)
    except ParquetryError as error:
        log.warning("job %s: its history was not written: %s", job, error)


def kept_history(storage: Storage, job: str) -> tuple[HistoryPoint, ...]:
    """The history that an output holds of a job; () where there is none, or none of this job. Raises StorageError."""
    data = storage.try_read(HISTORY_FILE)
    if data is None:
        return ()
    try:
        found = JobHistory.model_validate_json(data)
    except ValidationError as error:
        log.warning("%s is not readable: %s", storage.root.join(HISTORY_FILE), error.errors()[0]["msg"])
        return ()
    return found.read() if found.job == job else ()
