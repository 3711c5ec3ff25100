"""Submitting a job: `_job.json` in the output first, the queue second, and the same job again as often as you like."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, zip_longest
from pathlib import Path

from parquetry.producers.listing import FoundFile, Source, find_files
from parquetry.producers.output_folder import read_record, require_empty
from parquetry.producers.sharding import cut, rows_auto
from parquetry.producers.validation import CheckedJob, validate
from parquetry.schemas.errors import InputReplacedError, OutputTakenError, UnknownJobError
from parquetry.schemas.job import JobSpec, ModelSpec
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE, JobRecord
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.schemas.status import JobStatus
from parquetry.schemas.storage.storage import Storage, open_storage
from parquetry.tasks import permits
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """What became of a spec."""

    job: str
    record: JobRecord
    #: False when the output already held this very job
    created: bool


def prepare(spec: JobSpec) -> JobRecord:
    """Validate the spec and cut its shards; writes nothing.

    Raises BadInputError (see `validation.validate`), OutputTakenError and OutputNotEmptyError.
    """
    spec = located(spec)
    checked = validate(spec)
    output = open_storage(Location.parse(spec.output.path))
    existing = read_record(output)
    if existing is None:
        require_empty(output)
    elif existing.job != job_id(spec):
        raise OutputTakenError(path=output.root, job=existing.job)
    return JobRecord(
        job=job_id(spec),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=spec,
        model_path=checked.checkpoint.reference,
        plan=cut_shards(checked),
    )


def submit(spec: JobSpec, ledger: Ledger, *, broker_url: str | None = None) -> Submission:
    """Register the job and wake workers through `broker_url` (the configured broker when it is None).

    The same spec on the same output is the same job: it is not validated or cut again, nothing computed is lost, and a
    queue that has forgotten it learns of it from the output. A job whose output was deleted starts over. Nothing is
    written when anything is refused.

    Raises what `prepare` raises, BrokerUnreachableError, PutIfAbsentError, and InputReplacedError when files of the
    input were added, removed or changed since the job was submitted.
    """
    spec = located(spec)
    # asked first: a broker that cannot be reached must be found before anything is written
    known = _find(ledger, job_id(spec))
    output = open_storage(Location.parse(spec.output.path))
    record = None if read_record(output) else _create(spec, output, ledger, known)
    created = record is not None
    if record is not None:
        ledger.register(record, queue_of(spec))
    else:
        record = _take_up(spec, output, ledger)
    _wake(ledger, record, broker_url or settings().broker_url)
    return Submission(record.job, record, created)


def located(spec: JobSpec) -> JobSpec:
    """The spec with absolute locations, so that it means the same on every machine and from every folder."""
    path = spec.input.path
    sources = Source.parse(path).normalized if isinstance(path, str) else [Source.parse(p).normalized for p in path]
    return spec.model_copy(
        update={
            "input": spec.input.model_copy(update={"path": sources}),
            "output": spec.output.model_copy(update={"path": str(Location.parse(spec.output.path))}),
            "model": _located_model(spec.model),
        }
    )


def _located_model(model: ModelSpec) -> ModelSpec:
    found: dict[str, object] = {"id": _absolute(model.id)}
    if model.adapter is not None:
        found["adapter"] = _absolute(model.adapter)
    if model.adapters is not None:
        found["adapters"] = {name: _absolute(folder) for name, folder in model.adapters.items()}
    return model.model_copy(update=found)


def _absolute(path: str) -> str:
    """A folder or file of this machine by its full path; a hub id as it is."""
    found = Path(path).expanduser()
    return str(found.resolve()) if found.exists() else path


def job_id(spec: JobSpec) -> str:
    """`<task>-<12 hex digits>` of what determines the output, and where it goes. `spec` must be located."""
    digest = hashlib.sha256(f"{spec.fingerprint}\n{spec.output.path}".encode()).hexdigest()
    return f"{spec.task}-{digest[:12]}"


def cut_shards(checked: CheckedJob) -> ShardPlan:
    """The shard plan; files that lie wholly behind `input.limit` are not part of it."""
    spec, table = checked.spec, checked.table
    limit = min(table.num_rows, spec.input.limit or table.num_rows)
    rows = spec.shards.rows
    if rows == "auto":
        rows = rows_auto(spec, num_rows=limit, row_bytes=table.row_bytes)
    starts = accumulate((file.num_rows for file in table.files), initial=0)
    used = tuple(file for file, start in zip(table.files, starts, strict=False) if start < limit)
    return ShardPlan(files=used, bounds=cut(table.group_rows, rows, limit))


def _create(spec: JobSpec, output: Storage, ledger: Ledger, known: JobStatus | None) -> JobRecord | None:
    """The record that is now in the output, None when another submission put its own there first."""
    record = prepare(spec)
    output.probe()
    if known:
        log.warning("the output %s of job %s is gone; the job starts over", output.root, record.job)
        # before the record is there: whoever comes after a crash between the two finds a queue that knows nothing;
        # and only what was seen before the output was: another submission may have started it over in the meantime
        ledger.remove(record.job, created=known.created)
    won = output.put_if_absent(JOB_FILE, record.model_dump_json(indent=1).encode())
    return record if won else None


def _take_up(spec: JobSpec, output: Storage, ledger: Ledger) -> JobRecord:
    record = read_record(output)
    if record is None or record.job != job_id(spec):
        raise OutputTakenError(path=output.root, job=record.job if record else "one being removed")
    _require_same_input(record)
    # asked again: another submission may have removed it from the queue, to start over
    if _find(ledger, record.job) is None:
        # loaded only here: recovery reads parts
        from parquetry.tasks.recovery import recover

        recover(str(output.root), ledger)
    return record


def _require_same_input(record: JobRecord) -> None:
    found = [file for file in find_files(record.spec.input.path) if not file.is_blank]
    planned = record.plan.files
    if record.spec.input.limit is not None:
        found = found[: len(planned)]
    if difference := _input_difference(planned, found):
        raise InputReplacedError(job=record.job, path=record.spec.output.path, difference=difference)


def _input_difference(planned: Sequence[InputFile], found: Sequence[FoundFile]) -> str:
    for old, new in zip_longest(planned, found):
        if new is None or (old is not None and old.path < new.path):
            return f"{old.path} is gone"
        if old is None or new.path < old.path:
            return f"{new.path} was added"
        if (old.size, old.etag) != (new.entry.size, new.entry.etag):
            return f"{new.path} has changed"
    return ""


def _find(ledger: Ledger, job: str) -> JobStatus | None:
    try:
        return ledger.status(job, max_failures=0)
    except UnknownJobError:
        return None


def _wake(ledger: Ledger, record: JobRecord, broker_url: str | None) -> None:
    # without an address the workers' own reconciler issues the permits, a few seconds later
    if broker_url is not None:
        permits.top_up(ledger, broker_url, queue_of(record.spec), issued_by="submit")
