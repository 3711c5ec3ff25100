"""An output that another job takes over: what the job before it left is removed before anything of the new one runs.

`_job.json` is the new job's from the first step on, and says by `replaces` that old files may still be there. Until
that is gone from it no queue knows the job, so every part in the folder is an old one.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.errors import StorageError
from parquetry.schemas.manifest import JOB_FILE, SUCCESS_FILE, JobRecord
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.job_record import read_record
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.standing_record import read_standing
from parquetry.workers.shards.provenance import from_metadata

log = logging.getLogger(__name__)
_POLL_S = 0.1
_NUM_REMOVERS = 8


def finish_replacing(ledger: Ledger, storage: Storage, record: JobRecord) -> JobRecord:
    """The record of an output that holds nothing of another job any more. Repeats what a crash has left undone.

    Raises StorageError, BrokerUnreachableError, OutputTakenError when yet another job has taken the output.
    """
    while record.replaces:
        with ledger.lock(f"replace:{record.job}", ledger.policy.lease_s) as held:
            # read again: another process may have done it
            record = read_record(storage, record.job)
            if held and record.replaces:
                _remove_old(storage, record, time.monotonic() + ledger.policy.lease_s / 2)
                record = read_record(storage, record.job)
        if not held:
            time.sleep(_POLL_S)
    return record


def _remove_old(storage: Storage, record: JobRecord, deadline: float) -> None:
    """Remove the old files, and say so in the record; stops at the deadline, before the lock may be another's."""
    standing = read_standing(storage)
    # first: nobody may take what is left for a whole output
    for name in (SUCCESS_FILE, *_own_files(storage)):
        storage.delete(name)
    storage.discard_attempts()
    log.info("removing the parts of job %s from %s", record.replaces, storage.root)
    with ThreadPoolExecutor(_NUM_REMOVERS) as pool:
        list(pool.map(lambda name: _remove(storage, name, record.job, deadline), _parts(storage)))
    if standing is not None and standing.record == record and time.monotonic() < deadline:
        standing.replace(storage, record.model_copy(update={"replaces": ""}))


def _own_files(storage: Storage) -> list[str]:
    """What jobs leave beside their parts: manifest, history, report."""
    return [entry.path for entry in storage.list("_") if "/" not in entry.path and entry.path != JOB_FILE]


def _parts(storage: Storage) -> list[str]:
    return [entry.path for entry in storage.list("part-")]


def _remove(storage: Storage, name: str, job: str, deadline: float) -> None:
    # a process that slept past its lock must not remove what the new job has written since
    if time.monotonic() < deadline and _job_of(storage, name) != job:
        storage.delete(name)


def _job_of(storage: Storage, name: str) -> str | None:
    """The job that wrote a part, None where it does not tell."""
    try:
        with storage.open(name) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            return from_metadata(parquet.metadata.metadata).get("job")
    except (pa.ArrowException, OSError):
        return None
    except StorageError:
        # removed by another
        return None
