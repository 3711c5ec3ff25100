"""The scheduler alone: what each step holds, and that any workload ends with its tokens computed exactly once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.request import GenerationRequest, SamplingParams


def make_scheduler(num_blocks: int = 64, num_lanes: int = 8, token_budget: int = 16, **options: object) -> Scheduler:
    lanes = LaneTable(num_lanes, 64)
    return Scheduler(BlockPool(num_blocks, 4), lanes, token_budget=token_budget, max_model_len=256, **options)


def make_sequence(length: int, max_new_tokens: int = 8, first: int = 0) -> Sequence:
    ids = np.arange(first, first + length, dtype=np.int32)
    request = GenerationRequest(id=first, prompt_ids=ids, params=SamplingParams(max_new_tokens=max_new_tokens))
    return Sequence(request)


def shape(batch: Batch) -> tuple[int, list[tuple[int, int]]]:
    return len(batch.decode_lanes), [(chunk.start, chunk.stop) for chunk in batch.chunks]


def test_prefill_chunks_fill_what_decodes_leave() -> None:
    scheduler = make_scheduler(token_budget=16)
    for first, length in ((100, 8), (200, 22)):
        scheduler.add(make_sequence(length, first=first))
    steps = [scheduler.schedule() for _ in range(3)]
    assert [shape(step) for step in steps] == [(0, [(0, 8), (0, 8)]), (1, [(8, 22)]), (2, [])]
    assert [len(step.sampled_lanes) for step in steps] == [1, 2, 2]
    assert steps[2].positions.tolist() == [22, 9]


def test_a_prompt_is_not_cut_for_less_than_half_a_step() -> None:
    scheduler = make_scheduler(token_budget=16)
    for first, length in ((100, 10), (200, 7)):
        scheduler.add(make_sequence(length, first=first))
    assert [shape(scheduler.schedule()) for _ in range(2)] == [(0, [(0, 10)]), (1, [(0, 7)])]


def test_steps_are_cut_to_whole_waves() -> None:
    scheduler = make_scheduler(token_budget=48, full_step=16)
    for first, length in ((100, 10), (200, 7), (300, 30)):
        scheduler.add(make_sequence(length, first=first))
    # 47 tokens are there, then 15 and the two decodes, then less than a whole step
    shapes = [shape(scheduler.schedule()) for _ in range(4)]
    assert shapes == [(0, [(0, 10), (0, 7), (0, 15)]), (2, [(15, 29)]), (2, [(29, 30)]), (3, [])]


def test_only_prompts_that_can_begin_count_towards_a_whole_step() -> None:
    scheduler = make_scheduler(num_lanes=2, token_budget=48, full_step=8)
    for first, length in ((100, 5), (200, 6), (300, 30)):
        scheduler.add(make_sequence(length, first=first))
    assert shape(scheduler.schedule()) == (0, [(0, 5), (0, 3)])
    assert shape(scheduler.schedule()) == (1, [(3, 6)])


def test_prompts_without_room_do_not_count_towards_a_whole_step() -> None:
    # blocks of four tokens: the first prompt takes three of five, and the second would need all
    scheduler = make_scheduler(num_blocks=5, token_budget=48, full_step=8)
    for first, length in ((100, 11), (200, 20)):
        scheduler.add(make_sequence(length, first=first))
    assert shape(scheduler.schedule()) == (0, [(0, 8)])


def test_decodes_alone_may_exceed_a_whole_step() -> None:
    scheduler = make_scheduler(token_budget=16, full_step=3)
    for first in range(100, 105):
        scheduler.add(make_sequence(1, first=first))
    assert [scheduler.schedule().num_tokens for _ in range(3)] == [3, 5, 5]


def test_a_shrunken_budget_bounds_the_decodes() -> None:
    scheduler = make_scheduler(token_budget=8)
    for first in range(100, 105):
        scheduler.add(make_sequence(4, first=first))
    scheduler.schedule()
    scheduler.preempt_all()
    scheduler.token_budget = 2
    steps = [scheduler.schedule() for _ in range(8)]
    assert all(step.num_tokens <= 2 for step in steps)
    assert len(scheduler.running) == 2


def test_nothing_is_scheduled_past_the_limit() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_sequence(5, max_new_tokens=3))
    shapes = [shape(scheduler.schedule()) for _ in range(3)]
    assert shapes == [(0, [(0, 5)]), (1, []), (1, [])]
    assert scheduler.schedule() is None


def test_the_youngest_is_preempted_and_waits_in_front() -> None:
    scheduler = make_scheduler(num_blocks=6, token_budget=32)
    old, young, next_in_line = make_sequence(8, first=100), make_sequence(8, first=200), make_sequence(8, first=300)
    for sequence in (old, young, next_in_line):
        scheduler.add(sequence)
    assert shape(scheduler.schedule()) == (0, [(0, 8), (0, 8)])
    for _ in range(4):
        scheduler.schedule()
    scheduler.schedule()
    assert scheduler.num_preemptions == 1
    assert list(scheduler.admission) == [young, next_in_line]
    scheduler.check_integrity()


def test_a_prefix_published_in_a_step_is_shared_in_the_same_step() -> None:
    scheduler = make_scheduler(token_budget=64)
    for max_new_tokens in (4, 5):
        scheduler.add(make_sequence(10, max_new_tokens))
    assert shape(scheduler.schedule()) == (0, [(0, 10), (8, 10)])
    assert scheduler.admission.num_cached_tokens == 8


def simulate(scheduler: Scheduler, stops: dict[int, int], lag: int) -> dict[int, int]:
    """Play the device: sequence `first` stops after stops[first] outputs, seen `lag` steps late."""
    finished: dict[int, int] = {}
    pending: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(5000):
        batch = scheduler.schedule()
        if batch is not None:
            assert batch.num_tokens <= scheduler.token_budget
            lanes = batch.sampled_lanes
            assert len(set(lanes.tolist())) == len(lanes)
            pending.append((lanes, scheduler.lane_table.epoch[lanes]))
        for lanes, epochs in pending[: len(pending) - lag] if batch is not None else pending:
            collect(scheduler, lanes, epochs, stops, finished)
        pending = pending[len(pending) - lag :] if batch is not None and lag else []
        scheduler.check_integrity()
        if not scheduler.running and not len(scheduler.admission):
            return finished
    raise AssertionError("the schedule never ends")


def collect(
    scheduler: Scheduler, lanes: np.ndarray, epochs: np.ndarray, stops: dict[int, int], finished: dict[int, int]
) -> None:
    table = scheduler.lane_table
    lanes = lanes[table.epoch[lanes] == epochs]
    table.append(lanes, table.num_outputs[lanes], None)
    for lane in lanes.tolist():
        sequence = table.sequences[lane]
        # Every output says its own index: none was lost, repeated or swapped.
        assert table.outputs_of(lane).tolist() == list(range(table.num_outputs[lane]))
        if table.num_outputs[lane] >= stops[sequence.request.id]:
            finished[sequence.request.id] = int(table.num_outputs[lane])
            scheduler.release(sequence)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 30)), min_size=1, max_size=14),
    num_blocks=st.integers(20, 60),
    token_budget=st.integers(3, 64),
    lag=st.integers(0, 1),
    full_step=st.none() | st.integers(1, 40),
    prefix_cache=st.booleans(),
    shared=st.booleans(),
)
def test_every_sequence_ends_with_its_outputs(
    sizes: list[tuple[int, int]],
    num_blocks: int,
    token_budget: int,
    lag: int,
    full_step: int | None,
    prefix_cache: bool,
    shared: bool,
) -> None:
    scheduler = make_scheduler(num_blocks, token_budget=token_budget, full_step=full_step, prefix_cache=prefix_cache)
    stops = {}
    for index, (length, num_outputs) in enumerate(sizes):
        ids = np.arange(length, dtype=np.int32) + (0 if shared else 1000 * index)
        params = SamplingParams(max_new_tokens=30)
        scheduler.add(Sequence(GenerationRequest(id=index, prompt_ids=ids, params=params)))
        stops[index] = num_outputs
    assert simulate(scheduler, stops, lag) == stops
    assert scheduler.pool.num_free == num_blocks
    assert not scheduler.failed
