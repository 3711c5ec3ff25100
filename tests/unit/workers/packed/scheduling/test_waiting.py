"""Who goes next: first come, first served between windows, by prefix inside one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from parquetry.workers.packed.scheduling.admission import Admission
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.scheduling.waiting import WaitingQueue
from parquetry.workers.request import GenerationRequest, SamplingParams


def make_sequence(number: int, *tokens: int) -> Sequence:
    ids = np.asarray(tokens, dtype=np.int32)
    return Sequence(GenerationRequest(id=number, prompt_ids=ids, params=SamplingParams(max_new_tokens=2)))


def drain(queue: WaitingQueue) -> list[int]:
    return [queue.pop_first().request.id for _ in range(len(queue))]


def test_prompts_that_begin_alike_go_together() -> None:
    queue = WaitingQueue(grouped=True)
    for number, prompt in enumerate([(7, 1), (300, 2), (7, 9, 9), (300, 1), (7, 1), (70_000,)]):
        queue.append(make_sequence(number, *prompt))
    assert drain(queue) == [0, 4, 2, 3, 1, 5]


def test_prompts_of_one_adapter_go_together() -> None:
    queue = WaitingQueue(grouped=True)
    for number, adapter in enumerate([2, 0, 1, 2, 0]):
        sequence = make_sequence(number, 5 + number)
        sequence.adapter = adapter
        queue.append(sequence)
    assert drain(queue) == [1, 4, 2, 0, 3]


def test_without_groups_it_is_first_come_first_served() -> None:
    queue = WaitingQueue(grouped=False)
    for number, token in enumerate([5, 3, 4]):
        queue.append(make_sequence(number, token))
    assert drain(queue) == [0, 1, 2]


def test_nobody_is_overtaken_by_more_than_a_window() -> None:
    queue = WaitingQueue(grouped=True, window=3)
    for number, token in enumerate([9, 8, 7, 1, 2, 0, 3]):
        queue.append(make_sequence(number, token))
    assert drain(queue) == [2, 1, 0, 5, 3, 4, 6]
    queue.append(make_sequence(7, 9))
    queue.append(make_sequence(8, 1))
    assert queue.pop_first().request.id == 8
    queue.append(make_sequence(9, 1))
    # the window has had its three: the next one starts another
    queue.append(make_sequence(10, 0))
    assert drain(queue) == [9, 7, 10]


def test_the_preempted_go_first() -> None:
    queue = WaitingQueue(grouped=True)
    for number, token in enumerate([5, 3]):
        queue.append(make_sequence(number, token))
    young, old = queue.pop_first(), make_sequence(2, 9)
    queue.put_back(young)
    queue.put_back(old)
    assert [sequence.request.id for sequence in queue] == [2, 1, 0]
    assert queue.first is old
    assert drain(queue) == [2, 1, 0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["pop", "preempt", "forget"])), max_size=60))
def test_it_holds_what_was_put_in(actions: list[int | str]) -> None:
    queue, held, taken = WaitingQueue(grouped=True, window=4), {}, []
    for number, action in enumerate(actions):
        if isinstance(action, int):
            held[number] = make_sequence(number, action)
            queue.append(held[number])
        elif action == "pop" and held:
            taken.append(queue.pop_first())
            assert held.pop(taken[-1].request.id) is taken[-1]
        elif action == "preempt" and taken:
            sequence = taken.pop()
            held[sequence.request.id] = sequence
            queue.put_back(sequence)
        elif action == "forget" and held:
            queue.forget([held.pop(min(held))])
        assert {sequence.request.id for sequence in queue} == set(held)
        assert len(queue) == len(held)
        assert not held or queue.first.request.id in held
    assert sorted(drain(queue)) == sorted(held)


def cached_tokens(num_prefixes: int, *, grouped: bool) -> int:
    """Prompt tokens taken from the cache when rows of many prefixes come in turn and the cache holds only a few."""
    pool, lanes = BlockPool(24, 4), LaneTable(2, 16)
    scheduler = Scheduler(pool, lanes, token_budget=16, max_model_len=64)
    scheduler.admission = Admission(pool, lanes, max_model_len=64, waiting=WaitingQueue(grouped=grouped))
    for row in range(4 * num_prefixes):
        prefix = range(100 * (row % num_prefixes), 100 * (row % num_prefixes) + 16)
        scheduler.add(make_sequence(row, *prefix, 90_000 + row))
    while scheduler.num_unfinished:
        batch = scheduler.schedule()
        for lane in batch.sampled_lanes.tolist():
            scheduler.release(scheduler.lane_table.sequences[lane])
    return scheduler.admission.num_cached_tokens


def test_grouping_finds_prefixes_that_a_small_cache_would_have_lost() -> None:
    assert cached_tokens(20, grouped=False) == 0
    assert cached_tokens(20, grouped=True) == 20 * 3 * 16
