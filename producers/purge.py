"""Jobs that the queue is to forget; what they have written stays."""

from __future__ import annotations

import logging
from contextlib import suppress

from parquetry.producers.output.output_folder import give_up
from parquetry.schemas.errors import IllegalTransitionError, ParquetryError
from parquetry.schemas.location import Location
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks.job_record import read_record
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)


def purge(ledger: Ledger, job: str) -> None:
    """Drop a job that has ended; the folder of one without a part is anybody's again. `recover` enters it anew.

    Raises UnknownJobError, IllegalTransitionError for a job that has not ended, BrokerUnreachableError.
    """
    status = ledger.status(job, max_failures=0)
    if not status.damage and not ledger.remove(job, ended_s=0.0):
        raise IllegalTransitionError(job=job, state=status.state, wanted="purged; cancel it first")
    if status.damage:
        ledger.remove(job)
    elif not status.shards_done:
        _free_folder(status)


def _free_folder(status: JobStatus) -> None:
    # the queue has forgotten the job whatever its output says
    with suppress(ParquetryError):
        storage = open_storage(Location.parse(status.output))
        if read_record(storage).job == status.job and give_up(storage):
            log.info("the output %s is anybody's again", storage.root)


def purge_older(ledger: Ledger, age_s: float) -> list[str]:
    """Drop the jobs that ended at least so long ago; their ids. Raises BrokerUnreachableError."""
    return [job for job in ledger.job_names_before(age_s) if ledger.remove(job, ended_s=age_s)]
