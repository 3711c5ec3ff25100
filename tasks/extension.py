"""A job that has got more shards: the queue learns of them, and the old end of its output is taken back.

Shards keep their rows and their numbers, and the job its id. So whatever a worker that knew the shorter job still
publishes is a part of the longer one, and every step may be done twice, by two processes, and after a crash.
"""

from __future__ import annotations

import logging
import time

from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, JobRecord, Manifest
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.answer_files import withdraw_answers
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
_POLL_S = 0.1


def catch_up(ledger: Ledger, record: JobRecord, storage: Storage) -> bool:
    """Let a job the queue knows have all shards of its record; False when it has them. Waits while the job is ended.

    Raises UnknownJobError, StorageError, BrokerUnreachableError.
    """
    while is_behind(ledger, record):
        with ledger.lock(f"finalize:{record.job}", ledger.policy.lease_s) as held:
            if held:
                return grow(ledger, record, storage)
        time.sleep(_POLL_S)
    return False


def grow(ledger: Ledger, record: JobRecord, storage: Storage) -> bool:
    """The same for who holds the lock under which jobs are ended."""
    # looked at under the lock: another process may have done it, and the job may have ended since
    if not is_behind(ledger, record):
        return False
    # a job that was done has dropped them
    if manifest := read_manifest(storage, record.job):
        ledger.digests.put(record.job, manifest.parts)
    withdraw_end(storage, record)
    log.info("job %s: %d shards are added", record.job, ledger.extend(record))
    return True


def is_behind(ledger: Ledger, record: JobRecord) -> bool:
    """Whether the queue knows the job as it was before it was extended."""
    known = ledger.record_digest(record.job)
    if not known:
        # registered by a version that noted none
        return ledger.status(record.job, max_failures=0).shards < record.shard_plan.num_shards
    return known in record.grown_from


def read_manifest(storage: Storage, job: str) -> Manifest | None:
    """The job's manifest, of all its parts or of those that it had before it was extended; None without one."""
    data = storage.try_read(MANIFEST_FILE)
    manifest = Manifest.model_validate_json(data) if data else None
    return manifest if manifest and manifest.job == job else None


def withdraw_end(storage: Storage, record: JobRecord) -> None:
    """Remove `_SUCCESS` and the manifest, unless it lists all parts of the record."""
    if has_whole_manifest(storage, record):
        return
    # first: nobody may take the output for a whole one
    storage.delete(SUCCESS_FILE)
    withdraw_answers(storage, record)
    storage.delete(MANIFEST_FILE)


def has_whole_manifest(storage: Storage, record: JobRecord) -> bool:
    """Whether there is a manifest of all parts of the record, or of more: the record may be the older one by now."""
    manifest = read_manifest(storage, record.job)
    return manifest is not None and len(manifest.parts) >= record.shard_plan.num_shards
