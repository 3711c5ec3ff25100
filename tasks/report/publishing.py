"""`_report.html` beside an output: written when the job ends, a courtesy that nothing waits for or fails by."""

from __future__ import annotations

import logging

from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE, REPORT_FILE
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks.job_record import cached_record
from parquetry.tasks.kept_history import read_history
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.report.job_report import JobReport
from parquetry.tasks.report.outcome import Outcome
from parquetry.tasks.report.page import report_page

log = logging.getLogger(__name__)


def gather(ledger: Ledger, status: JobStatus) -> JobReport:
    """The report of a job that the queue knows, as of now. Raises StorageError, BrokerUnreachableError."""
    storage = open_storage(Location.parse(status.output))
    record = cached_record(status.output, status.job)
    kept = read_history(storage, status.job)
    is_whole = kept is not None and status.state.is_final
    points = kept.read() if kept is not None and is_whole else ledger.history(status.job)
    events = ledger.shards.events(status.job) or (kept.events if kept is not None else ())
    return JobReport.of(storage, record, Outcome.of_status(status), tuple(points), tuple(events), ledger)


def try_to_publish(ledger: Ledger, status: JobStatus, state: JobState) -> None:
    """Write the report of a job that is about to be in `state`; whatever hinders it is logged, and nothing else."""
    try:
        storage = open_storage(Location.parse(status.output))
        # an output that somebody has deleted stays deleted
        if storage.head(JOB_FILE) is not None:
            ended = status.model_copy(update={"state": state, "ended": status.now})
            storage.put(REPORT_FILE, report_page(gather(ledger, ended)).encode())
    # rows are other people's data and files other people's files: none of it may keep a job from ending
    except Exception as error:  # noqa: BLE001
        log.warning("job %s: its report was not written: %s: %s", status.job, type(error).__name__, error)
