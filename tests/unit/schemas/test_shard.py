"""The shard plan: slices by hand, and as properties of any files and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.schemas.shard import InputFile, ShardPlan, attempt_name, part_name


def make_plan(rows: list[int], bounds: list[int]) -> ShardPlan:
    files = (InputFile(path=f"/{number}", num_rows=n, size=n, etag="e") for number, n in enumerate(rows))
    return ShardPlan(files=tuple(files), bounds=tuple(bounds))


def test_slices_by_hand():
    plan = make_plan([5, 0, 3, 10], [0, 4, 7, 8, 18])
    assert (plan.num_shards, plan.num_rows) == (4, 18)
    slices = [
        [(file_slice.file.path, file_slice.start, file_slice.stop) for file_slice in plan.shard(i).slices]
        for i in range(4)
    ]
    assert slices == [
        [("/0", 0, 4)],
        [("/0", 4, 5), ("/2", 0, 2)],
        [("/2", 2, 3)],
        [("/3", 0, 10)],
    ]
    assert [(plan.shard(i).first_row, plan.shard(i).num_rows) for i in range(4)] == [(0, 4), (4, 3), (7, 1), (8, 10)]


@pytest.mark.parametrize("index", [-1, 2])
def test_no_such_shard(index):
    with pytest.raises(IndexError):
        make_plan([10], [0, 5, 10]).shard(index)


def test_names():
    assert part_name(42) == "part-00000042.parquet"
    assert attempt_name(42, 7) == "_attempts/part-00000042.7.parquet"
    assert make_plan([10], [0, 10]).shard(0).part_name == "part-00000000.parquet"
    assert sorted([part_name(9), part_name(10)]) == [part_name(9), part_name(10)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any), st.data())
def test_every_row_is_in_one_slice(rows, data):
    total = sum(rows)
    cuts = data.draw(st.sets(st.integers(1, total)))
    plan = make_plan(rows, sorted({0, *cuts, total}))
    covered = [
        (file_slice.file.path, row)
        for index in range(plan.num_shards)
        for file_slice in plan.shard(index).slices
        for row in range(file_slice.start, file_slice.stop)
    ]
    assert covered == [(f"/{number}", row) for number, n in enumerate(rows) for row in range(n)]
    assert all(sum(p.num_rows for p in plan.shard(i).slices) == plan.shard(i).num_rows for i in range(plan.num_shards))


def test_a_plan_survives_json():
    plan = make_plan([5, 3], [0, 4, 8])
    assert ShardPlan.model_validate_json(plan.model_dump_json()) == plan


def test_a_shard_costs_few_bytes():
    plan = make_plan([10**9], list(range(0, 10**9 + 1, 10**5)))
    assert len(plan.model_dump_json()) < 15 * plan.num_shards
