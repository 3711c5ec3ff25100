"""Batches by length under a token budget."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.workers.padded.batching import LengthSorted


def drain(queue: LengthSorted) -> list[list[int]]:
    batches = []
    while len(queue):
        batches.append(queue.take())
    return batches


def test_longest_first_and_old_before_young():
    queue: LengthSorted[str] = LengthSorted(token_budget=10, max_rows=8)
    for name, length in (("a", 3), ("b", 5), ("c", 5), ("d", 2)):
        queue.add(name, length)

    assert drain(queue) == [["b", "c"], ["a", "d"]]


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 300), st.integers(1, 10))
def test_every_request_is_given_out_once_within_the_budget(lengths, budget, max_rows):
    queue: LengthSorted[int] = LengthSorted(token_budget=budget, max_rows=max_rows)
    for number, length in enumerate(lengths):
        queue.add(number, length)

    batches = drain(queue)

    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or max(lengths[n] for n in batch) * len(batch) <= budget


def test_forgotten_requests_are_not_given_out():
    queue = LengthSorted(token_budget=10, max_rows=8)
    for id in range(4):
        queue.add(SimpleNamespace(id=id), 1)

    queue.forget({1, 2, 99})

    assert [request.id for request in queue.take()] == [0, 3]


def test_shrinking_makes_the_failed_batch_impossible():
    queue: LengthSorted[int] = LengthSorted(token_budget=10_000, max_rows=64)
    for number in range(8):
        queue.add(number, 10)

    queue.shrink(8, 10)

    assert queue.token_budget == 40
    assert len(queue.take()) == 4


def test_nothing_to_take():
    assert LengthSorted(token_budget=1, max_rows=1).take() == []
    with pytest.raises(ValueError, match="at least 1"):
        LengthSorted(token_budget=0, max_rows=1)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 100)), max_size=60), st.integers(1, 300))
def test_groups_share_no_batch(rows, budget):
    queue: LengthSorted[int] = LengthSorted(token_budget=budget, max_rows=8)
    for number, (group, length) in enumerate(rows):
        queue.add(number, length, group)

    batches = drain(queue)

    assert sorted(number for batch in batches for number in batch) == list(range(len(rows)))
    for batch in batches:
        assert len({rows[number][0] for number in batch}) == 1
        assert len(batch) == 1 or max(rows[number][1] for number in batch) * len(batch) <= budget
