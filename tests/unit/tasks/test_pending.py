"""Pending shards as ranges, committed ones as bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.tasks.ledger.pending import expand, from_bitmap, pending_items, to_bitmap


@pytest.mark.parametrize(
    ("num_shards", "done", "items"),
    [
        (0, [], []),
        (1, [], ["0"]),
        (1, [0], []),
        (5, [], ["0-4"]),
        (5, [0, 4], ["1-3"]),
        (5, [2], ["0-1", "3-4"]),
        (5, [1, 3], ["0", "2", "4"]),
        (1_000_000, [], ["0-999999"]),
    ],
)
def test_items(num_shards: int, done: list[int], items: list[str]):
    assert list(pending_items(num_shards, done)) == items


def test_bits_are_where_setbit_puts_them():
    assert to_bitmap({0, 9}) == b"\x80\x40"
    assert to_bitmap(()) == b""


@given(st.integers(0, 200), st.sets(st.integers(0, 199)))
def test_pending_and_done_are_all_shards(num_shards: int, done: set[int]):
    done = {shard for shard in done if shard < num_shards}
    pending = expand(list(pending_items(num_shards, done)))
    assert sorted([*pending, *done]) == list(range(num_shards))
    assert from_bitmap(to_bitmap(done)) == done
