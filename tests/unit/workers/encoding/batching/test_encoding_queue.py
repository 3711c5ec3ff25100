"""The queue of an encoder: budgets, sorting windows, error rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.workers.encoding.batching.queue import PACKED, PADDED, BatchForm, EncodeQueue, packed_cost, padded_cost
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.request import EncodeRequest

LIMITS = RowLimits(vocab_size=100, max_tokens=60)


def request(number: int, size: int) -> EncodeRequest:
    return EncodeRequest(id=number, token_ids=np.ones(size, np.int32))


def drain(queue: EncodeQueue) -> list[list[EncodeRequest]]:
    batches = []
    while queue.num_waiting:
        batches.append(queue.take_batch())
    return batches


@pytest.mark.parametrize("form", [PACKED, PADDED])
@given(lens=st.lists(st.integers(1, 60), min_size=1, max_size=80), budget=st.integers(1, 200))
def test_every_row_is_batched_once_within_the_budget(form, lens, budget):
    queue = EncodeQueue(budget, form, LIMITS.reason)
    queue.add([request(i, size) for i, size in enumerate(lens)])
    batches = drain(queue)
    assert sorted(r.id for batch in batches for r in batch) == list(range(len(lens)))
    for batch in batches:
        sizes = [len(r.token_ids) for r in batch]
        assert len(batch) == 1 or form.cost(sum(sizes), max(sizes) * len(batch)) <= budget
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("rows", "most"), [("equal lengths", 200), ("none", 1)])
@given(lens=st.lists(st.integers(1, 9), min_size=1, max_size=80))
def test_only_equal_lengths_or_none_share_a_batch(rows, most, lens):
    queue = EncodeQueue(40, PADDED, LIMITS.reason)
    queue.share(rows)
    queue.add([request(i, size) for i, size in enumerate(lens)])
    batches = drain(queue)
    assert sorted(r.id for batch in batches for r in batch) == list(range(len(lens)))
    assert all(len({len(r.token_ids) for r in batch}) == 1 and len(batch) <= most for batch in batches)


@pytest.mark.parametrize(
    ("sorting_window", "least", "most"), [(16, 0.06, 0.10), (32, 0.03, 0.06), (PADDED.sorting_window, 0.01, 0.04)]
)
def test_larger_windows_pad_less(sorting_window, least, most):
    lens = np.clip(np.random.default_rng(2).lognormal(np.log(81), 0.85, 20_000), 1, 512).astype(int)
    queue = EncodeQueue(4096, BatchForm(padded_cost, sorting_window), RowLimits(vocab_size=100).reason)
    queue.add([request(i, size) for i, size in enumerate(lens)])
    num_tokens = sum(len(batch) * len(batch[0].token_ids) for batch in drain(queue))
    assert least < 1 - lens.sum() / num_tokens < most


def test_a_window_is_finished_before_the_next_is_opened():
    queue = EncodeQueue(4, PACKED, LIMITS.reason)
    queue.add([request(i, 2) for i in range(6)])
    first = queue.take_batch()
    queue.add([request(10 + i, 1) for i in range(8)])
    second = queue.take_batch()
    assert {r.id for r in first + second} <= set(range(6))


def test_a_window_is_some_batches_of_tokens():
    queue = EncodeQueue(4, BatchForm(packed_cost, 2), LIMITS.reason)
    queue.add([request(i, 1) for i in range(8)])
    assert not queue.is_hungry
    queue.add([request(10, 3)])

    # the longer row came after the eight tokens of the first window
    first = {r.id for r in queue.take_batch()}
    assert len(first) == 4 and first < set(range(8))
    assert queue.is_hungry
    queue.add([request(11, 5)])
    assert not queue.is_hungry
    queue.cancel({11})
    assert queue.is_hungry
    assert {r.id for batch in drain(queue) for r in batch} == {*range(8), 10} - first


def test_rows_the_model_cannot_take_are_error_results():
    queue = EncodeQueue(100, PACKED, LIMITS.reason)
    queue.add([request(0, 0), request(1, 61), request(2, 60)])
    errors = {result.id: result.error for result in queue.take_refused()}
    assert errors == {0: "the text has no tokens", 1: "the text has 61 tokens, but the model takes 60"}
    assert queue.take_refused() == []
    assert [r.id for r in queue.take_batch()] == [2]


def test_cancelled_rows_are_forgotten():
    queue = EncodeQueue(100, PACKED, LIMITS.reason)
    queue.add([request(i, i) for i in range(4)])
    queue.cancel({0, 2})
    assert [r.id for r in queue.take_batch()] == [3, 1]
    assert len(queue) == 0


def test_ids_outside_the_vocabulary_are_found():
    rows = [
        EncodeRequest(id=0, token_ids=np.array([1, 100], np.int32)),
        EncodeRequest(id=1, token_ids=np.array([1, -1], np.int32)),
        EncodeRequest(id=2, token_ids=np.array([1, 99], np.int32)),
    ]
    assert set(LIMITS.unknown_ids(rows)) == {0, 1}


def test_segment_ids_are_checked_where_they_count():
    row = EncodeRequest(id=0, token_ids=np.ones(2, np.int32), token_type_ids=np.array([0, 2], np.int32))
    assert LIMITS.unknown_ids([row]) == {}
    limits = RowLimits(vocab_size=100, type_vocab_size=2)
    assert "segment ids" in limits.unknown_ids([row])[0]


@pytest.mark.parametrize(
    ("max_tokens", "budget", "lens"), [(60, 130, [60, 60]), (None, 1024, [512, 512]), (2000, 600, [512]), (60, 7, [7])]
)
def test_long_rows_fill_the_budget(max_tokens, budget, lens):
    rows = RowLimits(vocab_size=100, max_tokens=max_tokens).long_rows(budget)
    assert [len(row.token_ids) for row in rows] == lens
