"""What becomes of an output that holds a job already: the same job goes on, another one is refused, unless the spec
says by `output.on_existing` to extend it or to overwrite it."""

from __future__ import annotations

import logging
from itertools import pairwise

from parquetry.producers.draft import Draft
from parquetry.producers.living_workers import warn_unless_able
from parquetry.producers.output.extension import extended, not_extensible
from parquetry.producers.output.output_use import is_in_use
from parquetry.producers.output.same_input import input_difference
from parquetry.producers.output.spec_difference import as_text, differences
from parquetry.producers.preparing import Prepared, notes_of, prepared
from parquetry.producers.validation import validate
from parquetry.schemas.errors import InputReplacedError, JobStillRunsError, OtherJobHereError, UnknownJobError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.shard import part_name
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.standing_record import Standing

log = logging.getLogger(__name__)


def take_over(draft: Draft, standing: Standing, ledger: Ledger) -> JobRecord | None:
    """The job that the output is of now; None when somebody changed it in the meantime, and nothing was done.

    Raises OtherJobHereError, InputReplacedError, CannotExtendError, JobStillRunsError, and what `validate` raises.
    """
    if is_as_it_was(draft, standing.record):
        return standing.record
    if draft.spec.output.on_existing == "refuse":
        raise refusal(draft, standing.record)
    warn_unless_able(draft.spec, ledger)
    change = extend if draft.spec.output.on_existing == "extend" else overwrite
    record = change(draft, standing, ledger)
    return record if record == standing.record or standing.replace(draft.output, record) else None


def is_as_it_was(draft: Draft, record: JobRecord) -> bool:
    """Whether the output's job is the draft's, over the same input."""
    return draft.is_of(record) and not input_difference(record)


def refusal(draft: Draft, record: JobRecord) -> InputReplacedError | OtherJobHereError:
    """What is said where neither extend nor overwrite is asked for: what differs, and the ways on."""
    path = record.spec.output.path
    if draft.is_of(record):
        return InputReplacedError(job=record.job, path=path, difference=input_difference(record))
    found = as_text(differences(record.spec, draft.spec))
    return OtherJobHereError(path=path, job=record.job, differences=found, extending=_extending(draft, record))


def _extending(draft: Draft, record: JobRecord) -> str:
    blocking = not_extensible(record, draft.spec)
    if blocking:
        keys = ", ".join(difference.key for difference in blocking)
        return f"keeps the rows that are there and so cannot change {keys}"
    return "keeps the rows that are there and computes those that are new"


def foreseen(draft: Draft, standing: Standing) -> tuple[Prepared, str, int]:
    """The job as it would be with this output, a text on what would become of what lies there, and how many rows of the
    job are there; writes nothing.

    Raises CannotExtendError, and what `validate` raises.
    """
    old = standing.record
    if is_as_it_was(draft, old):
        return Prepared(old, notes_of(validate(draft.spec))), "", _rows_there(draft, old)
    if draft.spec.output.on_existing == "extend":
        checked = validate(draft.spec)
        kept = f"job {old.job} is extended: the {old.shard_plan.num_rows:,} rows of its {old.shard_plan.num_shards:,}"
        longer = Prepared(extended(old, checked, draft.output), notes_of(checked))
        return longer, f"{kept} shards are kept", _rows_there(draft, old)
    made = prepared(draft, replaced=old.job)
    if draft.spec.output.on_existing == "overwrite":
        return made, f"the output of job {old.job} is removed", 0
    return made, f"`run` and `submit` would refuse: {refusal(draft, old)}", 0


def _rows_there(draft: Draft, record: JobRecord) -> int:
    names, bounds = {entry.path for entry in draft.output.list("part-")}, record.shard_plan.bounds
    return sum(stop - start for shard, (start, stop) in enumerate(pairwise(bounds)) if part_name(shard) in names)


def extend(draft: Draft, standing: Standing, ledger: Ledger) -> JobRecord:
    """The record of the longer job. Raises JobStillRunsError while error rows of it are computed anew."""
    old = standing.record
    status = find_status(ledger, old.job)
    if status is not None and status.shards_due:
        path, state = old.spec.output.path, "computing its error rows anew"
        raise JobStillRunsError(path=path, job=old.job, state=state, remedy=f"parquetry cancel {old.job}")
    return extended(standing.record, validate(draft.spec), draft.output)


def overwrite(draft: Draft, standing: Standing, ledger: Ledger) -> JobRecord:
    """The record of the job that takes the place of the old one, which the queue forgets. Raises JobStillRunsError."""
    old = standing.record
    made = prepared(draft, replaced=old.job)
    for note in made.notes:
        log.warning("input %s", note)
    # last: its state may have changed while the input was read
    _require_ended(ledger, old, draft)
    return made.record


def _require_ended(ledger: Ledger, old: JobRecord, draft: Draft) -> None:
    path, status = old.spec.output.path, find_status(ledger, old.job)
    if status is not None and not status.state.is_final:
        remedy = f"parquetry cancel {old.job}"
        raise JobStillRunsError(path=path, job=old.job, state=status.state, remedy=remedy)
    if status is not None and status.shards_running:
        state = f"{status.state}, but {status.shards_running} of its shards are still with workers"
        raise JobStillRunsError(path=path, job=old.job, state=state, remedy="they give them back within a minute")
    if is_in_use(draft.output.root):
        remedy = "Ctrl-C in its terminal"
        raise JobStillRunsError(path=path, job=old.job, state="run by `parquetry run` on this machine", remedy=remedy)


def find_status(ledger: Ledger, job: str) -> JobStatus | None:
    """The job as the queue knows it, None where it does not."""
    try:
        return ledger.status(job, max_failures=0)
    except UnknownJobError:
        return None
