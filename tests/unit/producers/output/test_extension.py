"""The longer job that a job becomes, for any files, limits and shard sizes; and in which keys two specs differ."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.producers.inputs.inputs import InputTable
from parquetry.producers.output.extension import extended
from parquetry.producers.output.spec_difference import differences
from parquetry.producers.preparing import cut_shards
from parquetry.producers.validation import CheckedJob
from parquetry.schemas.errors import CannotExtendError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.schemas.spec.columns import schema_text
from parquetry.schemas.spec.job import JobSpec

SCHEMA = pa.schema([("text", pa.string())])


class NoParts:
    """An output in which no shard is finished."""

    def list(self, _prefix: str) -> list:
        return []


def spec(limit: int | None = None, rows: int = 7, **more) -> JobSpec:
    return JobSpec.parse(
        {
            "task": "embed",
            "input": {"path": "/in", "limit": limit},
            "output": {"path": "/out"},
            "model": {"id": "/m"},
            "shards": {"rows": rows},
            **more,
        }
    )


def checked(wanted: JobSpec, files: dict[str, int], *, counts_to_limit: bool = False) -> CheckedJob:
    """What validation would find: files by name with their rows, in the order of their names."""
    most = wanted.input.limit if counts_to_limit else None
    rows = {name: min(count, most or count) for name, count in sorted(files.items())}
    found = [InputFile(path=f"/in/{name}", num_rows=rows[name], size=files[name], etag=name) for name in rows]
    groups = [[4] * (count // 4) + [count % 4] * bool(count % 4) for count in rows.values()]
    table = InputTable(files=tuple(found), schema=SCHEMA, columns=("text",), row_group_rows=groups, row_bytes=8.0)
    return CheckedJob(wanted, table, SimpleNamespace(reference="/m"))


def first(job: CheckedJob) -> JobRecord:
    plan = cut_shards(job)
    return JobRecord(
        job="j", created="", spec=job.spec, model_path="/m", shard_plan=plan, input_schema=schema_text(SCHEMA)
    )


def rows_of(plan: ShardPlan) -> list[list[tuple[str, int]]]:
    """Of every shard the rows it holds, as a file and a place in it."""
    shards = map(plan.shard, range(plan.num_shards))
    return [[(s.file.path, row) for s in shard.slices for row in range(s.start, s.stop)] for shard in shards]


names = st.text("abc", min_size=1, max_size=2)
tables = st.dictionaries(names, st.integers(1, 30), min_size=1, max_size=4)
changes = st.tuples(tables, st.none() | st.integers(1, 120), st.integers(1, 20))


@given(files=tables, limit=st.none() | st.integers(1, 60), rows=st.integers(1, 20), more=st.lists(changes, max_size=3))
@pytest.mark.parametrize("counts_to_limit", [False, True])
def test_shards_stay_and_new_rows_come_once_behind_them(counts_to_limit, files, limit, rows, more):
    record = first(checked(spec(limit, rows), files, counts_to_limit=counts_to_limit))
    for added, limit_now, rows_now in more:
        before = rows_of(record.shard_plan)
        files = added | files
        job = checked(spec(limit_now, rows_now), files, counts_to_limit=counts_to_limit)
        if (limit_now or record.shard_plan.num_rows) < record.shard_plan.num_rows:
            with pytest.raises(CannotExtendError, match=r"input\.limit"):
                extended(record, job, NoParts())
            continue
        record = extended(record, job, NoParts())
        after = rows_of(record.shard_plan)
        assert after[: len(before)] == before
        flat = [row for shard in after for row in shard]
        every = [(f"/in/{name}", row) for name, count in files.items() for row in range(count)]
        assert len(flat) == len(set(flat)) == record.shard_plan.num_rows == min(len(every), limit_now or len(every))
        assert set(flat) <= set(every)
        assert all(shard for shard in after)
        assert record.job == "j"


def test_differences_are_named_as_the_command_line_names_them():
    old = spec(priority=1, classify={"text": "a" * 100})
    new = spec(5, priority=2, classify={"text": "a" * 60 + "b" * 100}, output={"path": "/out", "on_existing": "extend"})
    found = differences(old, new)
    assert [difference.key for difference in found] == ["input.limit", "classify.text"]
    assert str(found[0]) == "input.limit (null there, 5 here)"
    # of long texts what is about the first place where they differ
    old_text, new_text = "a" * 60 + "...", "a" * 20 + "b" * 40 + "..."
    assert str(found[1]) == f"classify.text (...{old_text} there, ...{new_text} here)"


def test_a_job_keeps_its_identity_whatever_is_to_become_of_an_old_output():
    assert spec().fingerprint == spec(output={"path": "/out", "on_existing": "overwrite"}, priority=0).fingerprint
    assert spec().fingerprint != spec(3).fingerprint
