"""A retry of error rows, as its user asks for it: which settings it may change, and whether they can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from parquetry.producers.draft import located
from parquetry.producers.plan.sampled_prompts import require_rendering
from parquetry.producers.validation import validate
from parquetry.schemas.errors import InvalidValueError, MissingColumnError, suggestion
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.columns import task_fields
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.spec.row_retry import RowRetry
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks import permits
from parquetry.tasks.job_record import read_record
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.row_retry import begin_retry, next_round
from parquetry.workers.shards.reader import input_schema, used_columns

#: sections that say how a row is computed; whatever else a job says is as it was
CHANGEABLE = ("model", "prompt", "generation", "classify", "embed", "on_row_error")


@dataclass(frozen=True)
class Retried:
    """A retry of rows that has begun; no rows where the job has no error row."""

    round: int
    shards: int
    rows: int


def retry_rows(
    ledger: Ledger, job: str, spec: JobSpec, changes: Mapping[str, object], *, broker_url: str | None = None
) -> Retried:
    """Compute the error rows of a job that has ended anew, by `spec`: the job's own with `changes` (dotted keys).

    Raises InvalidValueError and MissingColumnError for changes that would not fit the output, what `validate` raises,
    and what `begin_retry` raises.
    """
    status = ledger.status(job, max_failures=0)
    storage = open_storage(Location.parse(status.output))
    record = read_record(storage, job)
    retry = RowRetry(
        job=job,
        round=next_round(storage),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=_checked(record, spec),
        model_path=record.model_path,
        changes=dict(changes),
    )
    retry = _resolved(record, retry)
    begun = begin_retry(ledger, record, retry)
    if begun.shards and (url := broker_url or settings().broker_url) is not None:
        permits.top_up(ledger, url, queue_of(record.spec), issued_by="submit")
    return Retried(*begun)


def _resolved(record: JobRecord, retry: RowRetry) -> RowRetry:
    """The retry with the folder of its model, once it is sure that it can run."""
    if retry.spec == record.told_to([]).spec:
        return retry
    checked = validate(retry.spec)
    retry = retry.model_copy(update={"model_path": checked.checkpoint.reference})
    require_rendering(retry.applied(record))
    return retry


def _checked(record: JobRecord, spec: JobSpec) -> JobSpec:
    """The spec with absolute locations. Raises InvalidValueError and MissingColumnError unless it fits the output."""
    spec = located(spec).model_copy(update={"notify": []})
    own = record.told_to([]).spec
    for key in JobSpec.model_fields:
        if key not in CHANGEABLE and getattr(spec, key) != getattr(own, key):
            reason = f"a retry of rows changes {', '.join(CHANGEABLE)} alone; submit a new job for the rest"
            raise InvalidValueError(key=key, value="another", reason=reason)
    if task_fields(spec) != task_fields(own):
        reason = "with it the output would have other columns than the rows that are there; submit a new job"
        raise InvalidValueError(key=spec.task, value="another", reason=reason)
    if queue_of(spec) != queue_of(own):
        reason = f"it belongs to queue {queue_of(spec)}, and the job to {queue_of(own)}; submit a new job"
        raise InvalidValueError(key="model.backend", value=spec.model.backend, reason=reason)
    _require_columns(record, spec)
    return spec


def _require_columns(record: JobRecord, spec: JobSpec) -> None:
    known = input_schema(record).names
    for name, where in used_columns(spec, known).items():
        if name not in known:
            near = suggestion(name, known)
            raise MissingColumnError(where=where, column=name, suggestion=near, columns=", ".join(known))
