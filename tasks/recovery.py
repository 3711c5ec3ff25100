"""Rebuilds a job in a ledger that does not know it, or not all of it, from what its output holds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from parquetry.schemas.errors import BadInputError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE, SUCCESS_FILE, JobRecord, Manifest, PartRecord
from parquetry.schemas.number_ranges import numbers_in
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import part_name
from parquetry.schemas.spec.row_retry import RowRetry
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.extension import catch_up, read_manifest, withdraw_end
from parquetry.tasks.finalize import finalize
from parquetry.tasks.job_record import read_record
from parquetry.tasks.kept_history import kept_history, read_history
from parquetry.tasks.ledger import job_entry
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.rounds import DueShard
from parquetry.tasks.replacement import finish_replacing
from parquetry.tasks.row_retry import last_retry
from parquetry.workers.shards.part import find_part

log = logging.getLogger(__name__)
#: footers read at once; each waits for storage much longer than it computes
READERS = 8


class NoJobHereError(BadInputError):
    """There is no job in {path}: it has no _job.json."""


def recover(output: str, ledger: Ledger, *, queue: str | None = None, notify: Sequence[str] = ()) -> JobRecord:
    """Enter the job of an output into the ledger with every committed part counted; nothing is computed.

    `notify` are the job's webhooks, which its output does not hold.
    A job the ledger knows only gains the parts it missed; one that is done stays untouched. Raises NoJobHereError,
    RecordChangedError, NewerRecordError, UnreadableFileError, PartInvalidError, StorageError, BrokerUnreachableError.
    """
    storage = open_storage(Location.parse(output))
    if storage.head(JOB_FILE) is None:
        raise NoJobHereError(path=storage.root)
    record = finish_replacing(ledger, storage, read_record(storage)).told_to(notify)
    queue = queue or queue_of(record.spec)
    known = record.job in ledger.job_names() and not _dropped_as_damaged(ledger, record.job)
    if known:
        read_record(storage, record.job, ledger.record_digest(record.job))
        catch_up(ledger, record, storage)
    if known and ledger.status(record.job, max_failures=0).state is JobState.DONE:
        return record
    manifest = None if known else _finished_manifest(storage, record)
    if manifest:
        _register_done(ledger, record, queue, manifest, kept_history(storage, record.job))
    else:
        _count_parts(ledger, record, storage, queue, known=known)
    if not known:
        _restore_prediction(ledger, storage, record.job)
    if not manifest:
        finalize(ledger, record.job)
    return record


def _restore_prediction(ledger: Ledger, storage: Storage, job: str) -> None:
    kept = read_history(storage, job)
    if kept is not None and kept.prediction is not None:
        ledger.set_prediction(job, kept.prediction)


def _dropped_as_damaged(ledger: Ledger, job: str) -> bool:
    """Whether the ledger's record could not be read; what is left of it is dropped, the output has it all."""
    if ledger.status(job, max_failures=0).damage is None:
        return False
    log.warning("job %s: its record in the broker is damaged, and is rebuilt from the output", job)
    return ledger.remove(job)


def _finished_manifest(storage: Storage, record: JobRecord) -> Manifest | None:
    """The manifest of a finished output: it was checked when it was written, so no part is read again."""
    if storage.head(SUCCESS_FILE) is None:
        return None
    manifest = read_manifest(storage, record.job)
    return manifest if manifest and manifest.covers(record) else None


def _register_done(
    ledger: Ledger, record: JobRecord, queue: str, manifest: Manifest, history: Sequence[HistoryPoint]
) -> None:
    ledger.register(record, queue, done=manifest.parts, history=history)
    ledger.set_state(record.job, JobState.DONE)
    # it ended long ago, and whoever wanted to know was told then
    ledger.outbox.drop(record.job)
    ledger.hooks.drop(record.job)
    ledger.forget(record.job)


def _count_parts(ledger: Ledger, record: JobRecord, storage: Storage, queue: str, *, known: bool) -> None:
    counted = ledger.committed(record.job) if known else set()
    present = {entry.path for entry in storage.list("part-")}
    shards = [s for s in range(record.shard_plan.num_shards) if s not in counted and part_name(s) in present]
    found = _read_parts(storage, record, shards)
    if not known and read_manifest(storage, record.job):
        # it may be of before the job was extended
        withdraw_end(storage, record)
    retry = last_retry(storage, record.job)
    # without `_SUCCESS` the last retry was not over
    due = [part for part in found if retry and _is_due(part, retry)]
    done = [part for part in found if part not in due]
    kept = read_history(storage, record.job)
    past, budget = (kept.read(), kept.budget) if kept is not None else ((), None)
    if ledger.register(record, queue, done=done, history=past, budget=budget):
        _go_on_with(ledger, record, retry, due)
    else:
        for part in found:
            ledger.adopt(record.job, part)
    log.info("job %s: %d parts were found, %d of them new", record.job, len(present), len(found))


def _is_due(part: PartRecord, retry: RowRetry) -> bool:
    is_meant = part.error_rows > 0 and part.shard in numbers_in(retry.shards)
    return is_meant and part.last_round.round < retry.round


def _go_on_with(ledger: Ledger, record: JobRecord, retry: RowRetry | None, due: Sequence[PartRecord]) -> None:
    """Go on with a retry of rows that the queue has lost."""
    if retry is not None and due:
        fields = job_entry.settings_fields(retry.applied(record))
        ledger.open_round(record.job, retry.round, fields, force=True)
        shards = [DueShard(part.shard, part.rows, part.error_rows) for part in due]
        ledger.queue_rows(record.job, retry.round, shards)


def _read_parts(storage: Storage, record: JobRecord, shards: Iterable[int]) -> list[PartRecord]:
    with ThreadPoolExecutor(READERS) as pool:
        return [part for part in pool.map(partial(find_part, storage, record), shards) if part is not None]
