"""Sharding: bounds by hand, and as properties of any input."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.producers.sharding import TOLERANCE, cut, rows_auto
from parquetry.schemas.spec.job import JobSpec

GROUPS = st.lists(st.lists(st.integers(0, 5_000), max_size=8), max_size=8)


@pytest.mark.parametrize(
    ("row_group_rows", "rows", "limit", "bounds"),
    [
        ([[10]], 4, None, (0, 4, 8, 10)),
        ([[100, 100], [100]], 100, None, (0, 100, 200, 300)),
        # 90 is within a quarter of 100, so the shard ends with its row group
        ([[90, 90, 90]], 100, None, (0, 90, 180, 270)),
        # 110 and 95 are both near: the nearer end wins
        ([[95, 15, 90]], 100, None, (0, 95, 200)),
        # a group larger than a shard is split, and its rest joins no other group early
        ([[250, 50]], 100, None, (0, 100, 200, 300)),
        # the last shard takes up to a quarter more rather than leave a crumb
        ([[110]], 100, None, (0, 110)),
        ([[60], [0], [60]], 60, None, (0, 60, 120)),
        ([[100, 100]], 60, 130, (0, 60, 130)),
        ([[100]], 7, 7, (0, 7)),
        ([[5]], 100, 50, (0, 5)),
        ([], 10, None, (0,)),
        ([[0], []], 10, None, (0,)),
    ],
)
def test_bounds_by_hand(row_group_rows, rows, limit, bounds):
    assert cut(row_group_rows, rows, limit) == bounds


@given(GROUPS, st.integers(1, 3_000), st.none() | st.integers(1, 20_000))
def test_every_row_is_in_one_shard(row_group_rows, rows, limit):
    total = sum(map(sum, row_group_rows))
    bounds = cut(row_group_rows, rows, limit)
    assert bounds[0] == 0
    assert bounds[-1] == (total if limit is None else min(total, limit))
    assert all(low < high for low, high in pairwise(bounds))


@given(GROUPS, st.integers(1, 3_000))
def test_shards_have_about_the_size_asked_for(row_group_rows, rows):
    bounds = cut(row_group_rows, rows)
    sizes = [high - low for low, high in pairwise(bounds)]
    assert all(size <= rows * (1 + TOLERANCE) for size in sizes)
    assert all(size >= rows * (1 - TOLERANCE) for size in sizes[:-1])


@given(st.integers(1, 50), st.integers(1, 500))
def test_equal_row_groups_are_never_split(num_groups, rows):
    bounds = cut([[rows] * num_groups], rows)
    assert bounds == tuple(range(0, rows * num_groups + 1, rows))


def spec(task="generate", **generation):
    data = {"task": task, "input": {"path": "in"}, "output": {"path": "out"}, "model": {"id": "m"}}
    if task == "generate":
        data |= {"prompt": {"template": "{{ text }}"}, "generation": generation}
    return JobSpec.parse(data)


def test_long_outputs_make_short_shards():
    short = rows_auto(spec(max_new_tokens=16), num_rows=10**7, row_bytes=400)
    long = rows_auto(spec(max_new_tokens=1024), num_rows=10**7, row_bytes=400)
    assert 64 <= long < short <= 100_000


def test_several_workers_get_something():
    rows = rows_auto(spec("embed"), num_rows=80_000, row_bytes=100)
    assert len(cut([[80_000]], rows)) - 1 == 8


def test_a_small_input_is_not_shredded():
    assert rows_auto(spec("classify"), num_rows=100, row_bytes=100) == 512
    assert rows_auto(spec(), num_rows=100, row_bytes=10**9) == 64


@given(st.integers(1, 10**10), st.floats(0, 1e9), st.sampled_from(["generate", "embed"]))
def test_rows_auto_is_bounded(num_rows, row_bytes, task):
    assert 64 <= rows_auto(spec(task), num_rows=num_rows, row_bytes=row_bytes) <= 100_000
