"""Submitting a job: `_job.json` in the output first, the queue second. Idempotent."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

import pyarrow as pa

from parquetry.producers.draft import Draft
from parquetry.producers.living_workers import require_able_worker
from parquetry.producers.output_folder import find_record, give_up, require_empty
from parquetry.producers.same_input import require_same_input
from parquetry.producers.sampled_prompts import require_rendering
from parquetry.producers.sharding import cut, rows_auto
from parquetry.producers.validation import CheckedJob, validate
from parquetry.schemas.columns import schema_text
from parquetry.schemas.errors import OutputTakenError, UnknownJobError
from parquetry.schemas.job import JobSpec
from parquetry.schemas.manifest import JOB_FILE, JobRecord
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import ShardPlan
from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus
from parquetry.tasks import permits
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.workers.shards.reader import read_columns, used_columns

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A submitted job."""

    job: str
    record: JobRecord
    #: False when the output already held this very job
    created: bool


@dataclass(frozen=True)
class Prepared:
    """A job that can run."""

    record: JobRecord
    #: sentences on what of the input was left out, and which lines are malformed
    notes: tuple[str, ...]


def prepare(spec: JobSpec) -> JobRecord:
    """Validate the spec and cut its shards; writes nothing.

    Raises BadInputError (see `validation.validate`), OutputTakenError and OutputNotEmptyError.
    """
    return prepare_with_notes(spec).record


def prepare_with_notes(spec: JobSpec) -> Prepared:
    """The same, with what is worth saying of the input."""
    draft = Draft.of(spec)
    prepared = _prepared(draft)
    if draft.read_record() is None:
        require_empty(draft.output)
    return prepared


def submit(spec: JobSpec, ledger: Ledger, *, broker_url: str | None = None) -> Submission:
    """Register the job and wake workers through `broker_url` (the configured broker when it is None).

    The same spec on the same output is the same job: it is not validated or cut again, nothing computed is lost, and a
    queue that has forgotten it learns of it from the output. A job whose output was deleted starts over. Nothing is
    written when anything is refused.

    Raises what `prepare` raises, NoAbleWorkerError, BrokerUnreachableError, PutIfAbsentError, and InputReplacedError
    when files of the input were added, removed or changed since the job was submitted.
    """
    draft = Draft.of(spec)
    _replace_refused(draft, ledger)
    # asked first: a broker that cannot be reached must be found before anything is written
    known = _find(ledger, draft.job)
    existing = draft.read_record()
    made = _create(draft, ledger, known) if existing is None else None
    if made is not None:
        ledger.register(made, queue_of(made.spec))
    record = made or _take_up(draft, existing, ledger)
    _wake(ledger, record, broker_url or settings().broker_url)
    return Submission(record.job, record, created=made is not None)


def _prepared(draft: Draft) -> Prepared:
    """The record of a job that can run. Raises what `validation.validate` raises."""
    checked = validate(draft.spec)
    record = JobRecord(
        job=draft.job,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=draft.spec,
        model_path=checked.checkpoint.reference,
        shard_plan=cut_shards(checked),
        input_schema=schema_text(_read_schema(checked)),
    )
    require_rendering(record)
    return Prepared(record, (*checked.table.notes, *_template_notes(record.spec)))


def _template_notes(spec: JobSpec) -> list[str]:
    if spec.task != "generate" or spec.prompt.template is None or used_columns(spec, ["any"]):
        return []
    return ["is not used: prompt.template names no column, so every row has the same prompt"]


def _read_schema(checked: CheckedJob) -> pa.Schema:
    """The columns that shards are read with, those the output keeps first."""
    schema = checked.table.schema
    names = read_columns(checked.spec, schema.names)
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def cut_shards(checked: CheckedJob) -> ShardPlan:
    """The shard plan; files that lie wholly behind `input.limit` are not part of it."""
    spec, table = checked.spec, checked.table
    limit = min(table.num_rows, spec.input.limit or table.num_rows)
    rows = spec.shards.rows
    if rows == "auto":
        rows = rows_auto(spec, num_rows=limit, row_bytes=table.row_bytes)
    starts = accumulate((file.num_rows for file in table.files), initial=0)
    used = tuple(file for file, start in zip(table.files, starts, strict=False) if start < limit)
    return ShardPlan(files=used, bounds=cut(table.row_group_rows, rows, limit))


def _create(draft: Draft, ledger: Ledger, known: JobStatus | None) -> JobRecord | None:
    """The record that is now in the output, None when another submission put its own there first."""
    require_able_worker(draft.spec, ledger)
    prepared = _prepared(draft)
    record = prepared.record
    require_empty(draft.output)
    draft.output.check_put_if_absent()
    if known:
        log.warning("the output %s of job %s is gone; the job starts over", draft.output.root, draft.job)
        # before the record is there: whoever comes after a crash between the two finds a queue that knows nothing;
        # and only what was seen before the output was: another submission may have started it over in the meantime
        ledger.remove(draft.job, created=known.created)
    for note in prepared.notes:
        log.warning("input %s", note)
    won = draft.output.put_if_absent(JOB_FILE, record.stored())
    return record if won else None


def _take_up(draft: Draft, existing: JobRecord | None, ledger: Ledger) -> JobRecord:
    """The job that is in the output already, or that another submission has just put there; the queue knows it now."""
    record = existing or draft.read_record()
    if record is None:
        raise OutputTakenError(path=draft.output.root, job="one being removed")
    require_same_input(record)
    # asked again: another submission may have removed it from the queue, to start over
    if _find(ledger, record.job) is None:
        # loaded only here: recovery reads parts
        from parquetry.tasks.recovery import recover

        recover(str(draft.output.root), ledger, notify=draft.spec.notify)
    return record


def _replace_refused(draft: Draft, ledger: Ledger) -> None:
    """Take the output from another job that ended without a part, as one whose model no engine takes."""
    other = find_record(draft.output)
    if other is None or other.job == draft.job:
        return
    status = _find(ledger, other.job)
    if status is None or status.shards_done or status.state not in (JobState.FAILED, JobState.CANCELLED):
        return
    if draft.output.list("part-"):
        return
    # first: whoever runs a shard of it has lost its lease, and publishes nothing more
    ledger.remove(other.job, created=status.created)
    if give_up(draft.output):
        sentence = "the output %s is taken over from job %s, which is %s and has no part"
        log.warning(sentence, draft.output.root, other.job, status.state)


def _find(ledger: Ledger, job: str) -> JobStatus | None:
    try:
        return ledger.status(job, max_failures=0)
    except UnknownJobError:
        return None


def _wake(ledger: Ledger, record: JobRecord, broker_url: str | None) -> None:
    # without an address the workers' own reconciler issues the permits, a few seconds later
    if broker_url is not None:
        permits.top_up(ledger, broker_url, queue_of(record.spec), issued_by="submit")
