"""The longer job that an output's job becomes: its shards as they are, and behind them those of rows that are new."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.parquet as pq

from parquetry.producers.output.spec_difference import Difference, as_text, differences
from parquetry.producers.sharding import cut, rows_auto
from parquetry.producers.validation import CheckedJob
from parquetry.schemas.errors import CannotExtendError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.schemas.spec.columns import read_schema_text, schema_text
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.shards.provenance import from_metadata

#: what may differ between a job and its extension: which rows there are, and how those that are new are cut
EXTENSIBLE = ("input.path", "input.limit", "shards.rows")


def not_extensible(record: JobRecord, spec: JobSpec) -> list[Difference]:
    """The differences that make other rows of those that are there, or fewer."""
    found = differences(record.spec, spec)
    return [difference for difference in found if difference.key not in EXTENSIBLE or _is_less(difference, record)]


def _is_less(difference: Difference, record: JobRecord) -> bool:
    return (
        difference.key == "input.limit" and (difference.new or record.shard_plan.num_rows) < record.shard_plan.num_rows
    )


def require_extensible(record: JobRecord, spec: JobSpec) -> None:
    """Raise CannotExtendError, naming every key that stands in the way."""
    if blocking := not_extensible(record, spec):
        _refuse(record, f"it differs in {as_text(blocking)}")


def extended(record: JobRecord, checked: CheckedJob, output: Storage) -> JobRecord:
    """The record of the longer job: the same id, the same shards, and more of them behind these.

    Raises CannotExtendError when files, columns or weights of the rows that are there are not what they were.
    """
    require_extensible(record, checked.spec)
    schema = schema_text(checked.read_schema)
    _require_same_columns(record, schema)
    _require_same_model(record, checked, output)
    order = _file_order(record, checked.table.files)
    longer = {"spec": checked.spec, "shard_plan": _longer(record, checked, order)}
    return record.model_copy(update={**longer, "grown_from": (*record.grown_from, record.digest)}).signed()


def _longer(record: JobRecord, checked: CheckedJob, order: Sequence[int]) -> ShardPlan:
    table, start = checked.table, record.shard_plan.num_rows
    files = [table.files[place] for place in order]
    stop = min(table.num_rows, checked.spec.input.limit or table.num_rows)
    bounds = record.shard_plan.bounds
    if stop > start:
        groups = [table.row_group_rows[place] for place in order]
        bounds += cut(groups, _rows_per_shard(checked, stop - start), stop, start=start)[1:]
    return ShardPlan(files=_used(files, bounds[-1]), bounds=bounds)


def _rows_per_shard(checked: CheckedJob, num_rows: int) -> int:
    rows = checked.spec.shards.rows
    return rows_auto(checked.spec, num_rows=num_rows, row_bytes=checked.table.row_bytes) if rows == "auto" else rows


def _used(files: Sequence[InputFile], num_rows: int) -> tuple[InputFile, ...]:
    """Those of the files that hold the first `num_rows` rows."""
    used, seen = [], 0
    for file in files:
        if seen >= num_rows:
            break
        used.append(file)
        seen += file.num_rows
    return tuple(used)


def _file_order(record: JobRecord, files: Sequence[InputFile]) -> list[int]:
    """Places of the files in the longer job: those it had, in their order, then the others."""
    places = {file.path: place for place, file in enumerate(files)}
    had = record.shard_plan.files
    for number, file in enumerate(had):
        place = places.get(file.path)
        if place is None:
            _refuse(record, f"{file.path} is gone")
        elif not _is_same(file, files[place], is_last=number == len(had) - 1):
            _refuse(record, f"{file.path} has changed")
    known = [places[file.path] for file in had]
    return known + sorted(set(places.values()) - set(known))


def _is_same(old: InputFile, new: InputFile, *, is_last: bool) -> bool:
    """Rows of text files are counted up to the limit, so the last file may have more of them now."""
    counted = {"num_rows", "marks", "repeated_rows"}
    is_counted = old.num_rows == new.num_rows or (is_last and old.num_rows < new.num_rows)
    # of files that are added, one may come before this one and have a custom_id of it
    repeated = tuple(row for row in new.repeated_rows if row < old.num_rows)
    return (
        is_counted
        and old.repeated_rows == repeated
        and old.model_dump(exclude=counted) == new.model_dump(exclude=counted)
    )


def _require_same_columns(record: JobRecord, schema: str) -> None:
    if record.input_schema == schema:
        return
    old, new = read_schema_text(record.input_schema), read_schema_text(schema)
    if not old.equals(new):
        names = dict.fromkeys([*old.names, *new.names])
        kinds = {n: [str(s.field(n).type) if n in s.names else "not there" for s in (old, new)] for n in names}
        changed = [f"{name} was {before} and is {after}" for name, (before, after) in kinds.items() if before != after]
        _refuse(record, "columns of the input are others: " + ("; ".join(changed) or "they have another order"))


def _require_same_model(record: JobRecord, checked: CheckedJob, output: Storage) -> None:
    """By what a part that is there says of the weights it was computed with."""
    if record.model_path != checked.checkpoint.reference:
        _refuse(record, f"model.id was {record.model_path} and is {checked.checkpoint.reference} now")
    part = next(iter(output.list("part-")), None)
    if part is None:
        return
    with output.open(part.path) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        weights = from_metadata(parquet.metadata.metadata).get("weights")
    if weights and weights != checked.checkpoint.weights_fingerprint:
        _refuse(record, f"the weights in {checked.checkpoint.reference} are others now")


def _refuse(record: JobRecord, reason: str) -> None:
    raise CannotExtendError(job=record.job, path=record.spec.output.path, reason=reason)
