"""From a draft to the record of a job that can run: validated, its shards cut, its template tried on some rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from parquetry.producers.draft import Draft
from parquetry.producers.inputs.requests import url_notes
from parquetry.producers.plan.sampled_prompts import require_rendering
from parquetry.producers.sharding import cut, rows_auto
from parquetry.producers.validation import CheckedJob, validate
from parquetry.schemas.manifest import JobRecord, job_id
from parquetry.schemas.shard import ShardPlan
from parquetry.schemas.spec.columns import schema_text
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.shards.reader import used_columns


@dataclass(frozen=True)
class Prepared:
    """A job that can run."""

    record: JobRecord
    #: sentences on what of the input was left out, and which lines are malformed
    notes: tuple[str, ...]


def prepared(draft: Draft, *, replaced: str = "") -> Prepared:
    """The record of a job that can run, in an empty folder or in that of the job `replaced`; writes nothing.

    Raises what `validation.validate` raises.
    """
    checked = validate(draft.spec)
    record = JobRecord(
        job=job_id(draft.spec, replaced=replaced),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        spec=draft.spec,
        model_path=checked.checkpoint.reference,
        shard_plan=cut_shards(checked),
        input_schema=schema_text(checked.read_schema),
        replaces=replaced,
    ).signed()
    require_rendering(record)
    return Prepared(record, notes_of(checked))


def notes_of(checked: CheckedJob) -> tuple[str, ...]:
    """What is worth saying of the input."""
    return (*checked.table.notes, *_template_notes(checked.spec), *_url_notes(checked))


def _url_notes(checked: CheckedJob) -> Iterator[str]:
    return url_notes(checked.spec, checked.table.asked) if checked.spec.reads_requests else iter(())


def _template_notes(spec: JobSpec) -> list[str]:
    if spec.task != "generate" or spec.prompt.template is None or used_columns(spec, ["any"]):
        return []
    return ["is not used: prompt.template names no column, so every row has the same prompt"]


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
