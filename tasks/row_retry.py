"""Begins a retry of a job's error rows: shards that have some are queued again, and their parts stay until replaced.

The output is whole all the while, row by row. What says that it is finished goes before the first part is replaced, and
comes again with the last commit, as at the end of any job. Whoever dies in the middle of this leaves a job that the
reconciler finishes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError

from parquetry.schemas.errors import RetryableError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, JobRecord, Manifest
from parquetry.schemas.row_retry import RETRY_FILE, RowRetry
from parquetry.schemas.states import JobState
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.ledger.job_entry import settings_fields
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.rounds import DueShard

log = logging.getLogger(__name__)


class RetryInterruptedError(RetryableError):
    """The retry of job {job} was overtaken by the end of the job, which is being written; try again."""


def last_retry(storage: Storage, job: str) -> RowRetry | None:
    """The last retry of rows that the output of a job tells of, None where there was none."""
    data = storage.try_read(RETRY_FILE)
    try:
        found = RowRetry.model_validate_json(data) if data else None
    except ValidationError as error:
        log.warning("%s is not readable: %s", storage.root.join(RETRY_FILE), error.errors()[0]["msg"])
        return None
    return found if found and found.job == job else None


class Begun(NamedTuple):
    """Shards and error rows that are computed anew."""

    shards: int
    rows: int


def begin_retry(ledger: Ledger, record: JobRecord, retry: RowRetry) -> Begun:
    """Queue the shards with error rows; nothing is changed where there are none.

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
        begun = Begun(len(due) + status.shards_due, ledger.rows_due(record.job) + sum(each.error_rows for each in due))
        if begun.shards or not status.state.is_final:
            _begin(ledger, record, storage, retry, due)
    return begun


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


def _begin(ledger: Ledger, record: JobRecord, storage: Storage, retry: RowRetry, due: list[DueShard]) -> None:
    ledger.open_round(record.job, retry.round, settings_fields(retry.applied(record)))
    failpoint("retry_opened")
    # in this order: there is no `_SUCCESS` without a manifest
    storage.delete(SUCCESS_FILE)
    failpoint("retry_unmarked")
    storage.delete(MANIFEST_FILE)
    storage.put(RETRY_FILE, retry.model_dump_json(indent=1).encode())
    failpoint("retry_noted")
    if not ledger.queue_rows(record.job, retry.round, due):
        raise RetryInterruptedError(job=record.job)
