"""Begins a retry of a job's error rows: shards that have some are queued again, and their parts stay until replaced.

The output is whole all the while, row by row. What says that it is finished goes before the first part is replaced, and
comes again with the last commit, as at the end of any job. Whoever dies in the middle of this leaves a job that the
reconciler finishes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError

from parquetry.schemas.errors import RetryableError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, JobRecord, Manifest
from parquetry.schemas.number_ranges import ranges
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.row_retry import RETRIES_FOLDER, RowRetry, retry_file
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.answer_files import withdraw_answers
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.finalize import publish_manifest
from parquetry.tasks.job_record import read_record
from parquetry.tasks.ledger.job_entry import settings_fields
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.rounds import DueShard

log = logging.getLogger(__name__)


class RetryInterruptedError(RetryableError):
    """The retry of job {job} was overtaken by the end of the job, which is being written; try again."""


def last_retry(storage: Storage, job: str) -> RowRetry | None:
    """The last retry of rows that the output of a job tells of, None where there was none."""
    for entry in reversed(storage.list(f"{RETRIES_FOLDER}/")):
        try:
            found = RowRetry.model_validate_json(storage.read(entry.path))
        except ValidationError as error:
            log.warning("%s is not readable: %s", storage.root.join(entry.path), error.errors()[0]["msg"])
            continue
        if found.job == job:
            return found
    return None


def next_round(storage: Storage) -> int:
    """A number that no retry in this output has had, of whichever job."""
    entries = storage.list(f"{RETRIES_FOLDER}/")
    numbers = [entry.path.rpartition("/")[2].partition(".")[0] for entry in entries]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


class Begun(NamedTuple):
    """A retry of rows, with the shards and error rows that are computed anew."""

    round: int
    shards: int
    rows: int


def retry_unchanged(ledger: Ledger, status: JobStatus) -> Begun:
    """Compute the error rows of a job that has ended anew, as they were. Raises what `begin_retry` raises."""
    storage = open_storage(Location.parse(status.output))
    record = read_record(storage, status.job, ledger.record_digest(status.job))
    retry = RowRetry(
        job=status.job,
        round=next_round(storage),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=record.told_to([]).spec,
        model_path=record.model_path,
        changes={},
    )
    return begin_retry(ledger, record, retry)


def begin_retry(ledger: Ledger, record: JobRecord, retry: RowRetry) -> Begun:
    """Queue the shards with error rows; nothing is changed where there are none. `retry.round` is the least it may be.

    Raises IllegalTransitionError for a job that has not ended, ShardsHeldError, RetryInterruptedError when somebody is
    ending the job at this moment, UnknownJobError, StorageError, BrokerUnreachableError.
    """
    storage = open_storage(Location.parse(record.spec.output.path))
    # nobody may end the job between its first step here and the last
    with ledger.lock(f"finalize:{record.job}", ledger.policy.lease_s) as held:
        if not held:
            raise RetryInterruptedError(job=record.job)
        status = ledger.status(record.job, max_failures=0)
        due = list(_due(ledger, record, storage, status.state))
        # what a round that was cancelled has left is queued already
        rows = ledger.due(record.job) | {each.shard: each.error_rows for each in due}
        if rows or not status.state.is_final:
            retry = retry.model_copy(update={"shards": ranges(sorted(rows))})
            retry = _begin(ledger, record, storage, retry, due)
    return Begun(retry.round, len(rows), sum(rows.values()))


def _due(ledger: Ledger, record: JobRecord, storage: Storage, state: JobState) -> Iterator[DueShard]:
    bounds = record.shard_plan.bounds
    if state is JobState.DONE:
        # the queue has forgotten the digests, which the end of the retry needs again
        manifest = Manifest.model_validate_json(storage.read(MANIFEST_FILE))
        ledger.digests.put(record.job, manifest.parts)
        yield from (DueShard(part.shard, part.rows, part.error_rows) for part in manifest.parts if part.error_rows)
        return
    for shard, digest in enumerate(ledger.digests.read(record.job, record.shard_plan.num_shards)):
        if digest is not None and digest.error_rows:
            yield DueShard(shard, bounds[shard + 1] - bounds[shard], digest.error_rows)


def _begin(ledger: Ledger, record: JobRecord, storage: Storage, retry: RowRetry, due: list[DueShard]) -> RowRetry:
    round = ledger.open_round(record.job, retry.round, settings_fields(retry.applied(record)))
    retry = retry.model_copy(update={"round": round})
    failpoint("retry_opened")
    # whoever was stopped for longer than the lock lasts is not to undo the end that others have written meanwhile
    if not ledger.is_in_round(record.job, round):
        raise RetryInterruptedError(job=record.job)
    # in this order: there is no `_SUCCESS` without a manifest
    storage.delete(SUCCESS_FILE)
    failpoint("retry_unmarked")
    withdraw_answers(storage, record)
    storage.delete(MANIFEST_FILE)
    storage.put_if_absent(retry_file(round), retry.model_dump_json(indent=1).encode())
    failpoint("retry_noted")
    if not ledger.queue_rows(record.job, round, due):
        _mark_again(ledger, record, storage)
        raise RetryInterruptedError(job=record.job)
    return retry


def _mark_again(ledger: Ledger, record: JobRecord, storage: Storage) -> None:
    """Write what says that an output is finished, which was deleted after somebody had written it."""
    status = ledger.status(record.job)
    if status.state is JobState.DONE:
        publish_manifest(ledger, status, storage)
