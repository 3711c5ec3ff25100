"""Submitting a job: `_job.json` in the output first, the queue second. Idempotent."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass

from parquetry.producers.draft import Draft
from parquetry.producers.living_workers import warn_unless_able
from parquetry.producers.output.existing_output import find_status, foreseen, refusal, take_over
from parquetry.producers.output.output_folder import find_standing, give_up, require_empty
from parquetry.producers.plan.predictions import store_prediction
from parquetry.producers.preparing import Prepared, prepared
from parquetry.schemas.errors import OutputTakenError
from parquetry.schemas.manifest import JOB_FILE, JobRecord
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks import permits
from parquetry.tasks.extension import is_behind
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
#: times that another submission may change the output while this one looks at the input
_MAX_TRIES = 20
#: those that meet wait for unequal times, at most so long
_LONGEST_WAIT_S = 0.2


@dataclass(frozen=True)
class Submission:
    """A submitted job."""

    job: str
    record: JobRecord
    #: False when the output already held this very job
    created: bool
    #: rows that were added to the job that the output held
    rows_added: int = 0


@dataclass(frozen=True)
class Prospect:
    """A job that is not submitted, and what it would find in its output."""

    prepared: Prepared
    #: what would become of the output that is there; "" where there is none, or this job's own
    existing: str = ""
    #: rows of the job that are there already
    rows_there: int = 0


def prepare(spec: JobSpec) -> JobRecord:
    """Validate the spec and cut its shards; writes nothing.

    Raises BadInputError (see `validation.validate`), OutputTakenError and OutputNotEmptyError.
    """
    draft = Draft.of(spec)
    standing = find_standing(draft.output)
    if standing is not None and draft.spec.output.on_existing == "refuse" and not draft.is_of(standing.record):
        raise refusal(draft, standing.record)
    return foresee(spec).prepared.record


def foresee(spec: JobSpec) -> Prospect:
    """The same for an output of any job, with what would become of it and what is worth saying of the input."""
    draft = Draft.of(spec)
    standing = find_standing(draft.output)
    if standing is not None:
        return Prospect(*foreseen(draft, standing))
    made = prepared(draft)
    require_empty(draft.output)
    return Prospect(made)


def submit(spec: JobSpec, ledger: Ledger, *, broker_url: str | None = None) -> Submission:
    """Register the job and wake workers through `broker_url` (the configured broker when it is None).

    The same spec on the same output is the same job: it is not validated or cut again, nothing computed is lost, and a
    queue that has forgotten it learns of it from the output. A job whose output was deleted starts over. Nothing is
    written when anything is refused. What happens to the output of another job: see `existing_output`.

    Raises what `prepare` and `existing_output.take_over` raise, BrokerUnreachableError and
    PutIfAbsentError.
    """
    draft = Draft.of(spec)
    _replace_refused(draft, ledger)
    # asked first: a broker that cannot be reached must be found before anything is written
    known = find_status(ledger, draft.job)
    for _ in range(_MAX_TRIES):
        if (made := _try(draft, ledger, known)) is not None:
            if made.created:
                store_prediction(ledger, made.record)
            _wake(ledger, made.record, broker_url or settings().broker_url)
            return made
        time.sleep(random.uniform(0, _LONGEST_WAIT_S))
    raise OutputTakenError(path=draft.output.root, job="others that are being submitted at this moment")


def _try(draft: Draft, ledger: Ledger, known: JobStatus | None) -> Submission | None:
    """None when another submission changed the output under our hands."""
    standing = find_standing(draft.output)
    if standing is None:
        return _create(draft, ledger, known)
    record = take_over(draft, standing, ledger)
    if record is None:
        return None
    _enter(draft, record, ledger)
    is_same = record.job == standing.record.job
    added = record.shard_plan.num_rows - standing.record.shard_plan.num_rows if is_same else 0
    return Submission(record.job, record, created=not is_same, rows_added=added)


def _create(draft: Draft, ledger: Ledger, known: JobStatus | None) -> Submission | None:
    """The job in an output that was nobody's, None when another submission put its own there first."""
    warn_unless_able(draft.spec, ledger)
    made = prepared(draft)
    require_empty(draft.output)
    draft.output.check_put_if_absent()
    if known:
        log.warning("the output %s of job %s is gone; the job starts over", draft.output.root, draft.job)
        # before the record is there: whoever comes after a crash between the two finds a queue that knows nothing;
        # and only what was seen before the output was: another submission may have started it over in the meantime
        ledger.remove(draft.job, created=known.created)
    for note in made.notes:
        log.warning("input %s", note)
    if not draft.output.put_if_absent(JOB_FILE, made.record.stored()):
        return None
    ledger.register(made.record, queue_of(made.record.spec))
    return Submission(made.record.job, made.record, created=True)


def _enter(draft: Draft, record: JobRecord, ledger: Ledger) -> None:
    """Let the queue know the job that is in the output, with all its shards."""
    is_known = find_status(ledger, record.job) is not None
    if record.replaces:
        _forget_replaced(ledger, record.replaces)
    if not is_known or record.replaces or is_behind(ledger, record):
        # loaded only here: recovery reads parts
        from parquetry.tasks.recovery import recover

        recover(str(draft.output.root), ledger, notify=draft.spec.notify)


def _forget_replaced(ledger: Ledger, job: str) -> None:
    """Whoever still holds a shard of it has lost its lease."""
    if (status := find_status(ledger, job)) is not None:
        ledger.remove(job, created=status.created)


def _replace_refused(draft: Draft, ledger: Ledger) -> None:
    """Take the output from another job that ended without a part, as one whose model no engine takes."""
    standing = find_standing(draft.output)
    if standing is None or draft.is_of(standing.record):
        return
    other = standing.record
    status = find_status(ledger, other.job)
    if status is None or status.shards_done or status.state not in (JobState.FAILED, JobState.CANCELLED):
        return
    if draft.output.list("part-"):
        return
    # first: whoever runs a shard of it has lost its lease, and publishes nothing more
    ledger.remove(other.job, created=status.created)
    if give_up(draft.output):
        sentence = "the output %s is taken over from job %s, which is %s and has no part"
        log.warning(sentence, draft.output.root, other.job, status.state)


def _wake(ledger: Ledger, record: JobRecord, broker_url: str | None) -> None:
    # without an address the workers' own reconciler issues the permits, a few seconds later
    if broker_url is not None:
        permits.top_up(ledger, broker_url, queue_of(record.spec), issued_by="submit")
