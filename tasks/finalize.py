"""The end of a job: the manifest, then `_SUCCESS`. May run twice, in two processes, and after a crash at any line."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from parquetry.schemas.errors import IllegalTransitionError, PartInvalidError, RecordChangedError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, JobRecord, Manifest, PartRecord
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.shard import part_name
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Entry, Storage
from parquetry.tasks.answer_files import publish_answers
from parquetry.tasks.earlier_jobs import try_to_keep_pace
from parquetry.tasks.extension import grow, withdraw_end
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.job_record import cached_record, read_record
from parquetry.tasks.kept_history import keep_history
from parquetry.tasks.ledger.claim import Digest
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.report.publishing import try_to_publish
from parquetry.tasks.tracing.job_trace import trace_job
from parquetry.workers.shards.part import find_part

log = logging.getLogger(__name__)


def finalize(ledger: Ledger, job: str) -> JobState:
    """End the job if nothing of it is left to run; the state it is in now.

    One process at a time does it; when it dies another follows after the time of a lease. Storage errors leave the job
    as it is; the reconciler tries again.
    """
    with ledger.lock(f"finalize:{job}", ledger.policy.lease_s) as held:
        status = ledger.status(job)
        if held and _is_over(status):
            _end_unless_changed(ledger, status)
    return ledger.status(job).state


def _is_over(status: JobStatus) -> bool:
    left = status.shards - status.shards_done - status.shards_failed
    return not status.state.is_final and left == 0


def _end_unless_changed(ledger: Ledger, status: JobStatus) -> None:
    try:
        _end(ledger, status)
    except RecordChangedError as error:
        # parts of one job are never listed as those of another
        ledger.refuse(status.job, str(error))
        log.error("%s", error)


def _end(ledger: Ledger, status: JobStatus) -> None:
    # first, since whoever waits for the job may leave once it has ended
    keep_history(ledger, status.job, status.output)
    if status.shards_failed:
        try_to_publish(ledger, status, JobState.FAILED)
        ledger.set_state(status.job, JobState.FAILED)
        trace_job(status, JobState.FAILED)
        log.error("job %s ended with %d failed shards", status.job, status.shards_failed)
    elif publish_manifest(ledger, status, open_storage(Location.parse(status.output))):
        _done(ledger, status)


def _done(ledger: Ledger, status: JobStatus) -> None:
    # before whoever waits for the job may leave, and the queue forgets who computed it
    try_to_keep_pace(ledger, cached_record(status.output, status.job))
    try:
        ledger.set_state(status.job, JobState.DONE, num_shards=status.shards)
    except IllegalTransitionError:
        # it was extended while this process slept past its lock
        storage = open_storage(Location.parse(status.output))
        withdraw_end(storage, read_record(storage, status.job))
        raise
    ledger.forget(status.job)
    trace_job(status, JobState.DONE)
    log.info("job %s is done: %d rows", status.job, status.rows_done)


def publish_manifest(ledger: Ledger, status: JobStatus, storage: Storage) -> bool:
    """Write manifest, answers, report and `_SUCCESS`, and remove attempts.

    False when shards were queued instead: a part has vanished, or whoever extended the job did not get to it.
    """
    record = read_record(storage, status.job, ledger.record_digest(status.job))
    if grow(ledger, record, storage):
        return False
    entries = {entry.path: entry for entry in storage.list("part-")}
    if missing := [shard for shard in range(record.shard_plan.num_shards) if part_name(shard) not in entries]:
        _reopen(ledger, record, missing)
        return False
    failpoint("manifest")
    manifest = _manifest(ledger, record, storage, entries)
    data = manifest.model_dump_json(indent=1).encode()
    if not storage.put_if_absent(MANIFEST_FILE, data) and not _is_listed(storage, record, manifest):
        storage.put(MANIFEST_FILE, data)
    failpoint("answers")
    publish_answers(storage, record)
    try_to_publish(ledger, status, JobState.DONE)
    failpoint("success")
    storage.put_if_absent(SUCCESS_FILE, b"")
    failpoint("attempts")
    storage.discard_attempts()
    return True


def _reopen(ledger: Ledger, record: JobRecord, missing: list[int]) -> None:
    log.error("job %s: %d committed parts have vanished from %s", record.job, len(missing), record.spec.output.path)
    for shard in missing:
        ledger.reopen(record.job, shard, record.shard_plan.shard(shard).num_rows)


def _manifest(ledger: Ledger, record: JobRecord, storage: Storage, entries: dict[str, Entry]) -> Manifest:
    if extra := sorted(set(entries) - {part_name(shard) for shard in range(record.shard_plan.num_shards)}):
        log.warning("%s holds %d parts that are not of job %s", record.spec.output.path, len(extra), record.job)
    parts = tuple(_parts(ledger, record, storage, entries))
    return Manifest(
        job=record.job,
        rows=sum(part.rows for part in parts),
        error_rows=sum(part.error_rows for part in parts),
        parts=parts,
    )


def _parts(ledger: Ledger, record: JobRecord, storage: Storage, entries: dict[str, Entry]) -> Iterator[PartRecord]:
    bounds = record.shard_plan.bounds
    for shard, digest in enumerate(ledger.digests.read(record.job, record.shard_plan.num_shards)):
        if digest is None:
            # committed before this broker knew the job: the part itself has to be read
            yield _found(storage, record, shard)
        else:
            yield _part(digest, entries[part_name(shard)], shard, bounds[shard + 1] - bounds[shard])


def _found(storage: Storage, record: JobRecord, shard: int) -> PartRecord:
    part = find_part(storage, record, shard)
    if part is None:
        raise PartInvalidError(path=part_name(shard), shard=shard, reason="it was there a moment ago, and is gone")
    return part


def _part(digest: Digest, entry: Entry, shard: int, rows: int) -> PartRecord:
    return PartRecord(
        path=entry.path,
        shard=shard,
        fence=digest.fence,
        rows=rows,
        error_rows=digest.error_rows,
        size=entry.size,
        sha256=digest.sha256,
        etag=entry.etag,
    )


def _is_listed(storage: Storage, record: JobRecord, manifest: Manifest) -> bool:
    """Whether the manifest that is there lists the same parts; False where it is of before the job was extended.

    Raises PartInvalidError when it lists others.
    """
    there = [part.sha256 for part in Manifest.model_validate_json(storage.read(MANIFEST_FILE)).parts]
    ours = [part.sha256 for part in manifest.parts]
    is_earlier = bool(record.grown_from) and there == ours[: len(there)]
    if there != ours and not is_earlier:
        raise PartInvalidError(path=MANIFEST_FILE, shard="any", reason="an earlier manifest lists other parts")
    return there == ours
