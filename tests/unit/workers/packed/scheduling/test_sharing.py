"""Groups of sequences with equal beginnings: which are found, how a step is arranged, and that outputs stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parquetry.workers.packed.attention.backend import AttentionBackend
from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.sdpa import SdpaBackend
from parquetry.workers.packed.checks.sharing_check import can_share
from parquetry.workers.packed.graph_inputs import GraphInputs, max_tiles
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.scheduling import sharing
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.scheduling.sharing import MIN_ROWS, PrefixGroups, SharedPrefix, find_groups, num_common
from parquetry.workers.packed.step_tensors import DeviceLanes
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)
from tests.unit.workers.packed.scheduling.test_scheduler import simulate


def make_sequence(lane: int, blocks: list[int]) -> Sequence:
    sequence = Sequence(GenerationRequest(id=lane, prompt_ids=np.zeros(1, dtype=np.int32)))
    sequence.lane, sequence.blocks = lane, blocks
    return sequence


def make_rows(*prefixes: tuple[list[int], int], first: int = 0) -> list[Sequence]:
    """So many rows behind each prefix, every one with two blocks of its own."""
    rows = []
    for prefix, count in prefixes:
        for _ in range(count):
            lane = first + len(rows)
            rows.append(make_sequence(lane, [*prefix, 1000 + 2 * lane, 1001 + 2 * lane]))
    return rows


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_num_common(a: list[int], b: list[int]) -> None:
    count = num_common(a, b)
    assert a[:count] == b[:count]
    assert count == min(len(a), len(b)) or a[count] != b[count]


def found(sequences: list[Sequence], least: int = 2) -> list[tuple[int, int]]:
    """Members and shared blocks of each group."""
    return sorted((len(members), count) for members, count in find_groups(sequences, least=least))


def test_one_instruction_makes_one_group() -> None:
    assert found(make_rows(([1, 2, 3], 20))) == [(20, 3)]


def test_groups_are_large_enough_and_share_enough() -> None:
    assert found(make_rows(([1, 2, 3], MIN_ROWS - 1))) == []
    assert found(make_rows(([1], 20))) == []
    assert found([]) == []


def test_documents_behind_one_instruction_are_groups_of_their_own_when_that_saves_more() -> None:
    instruction = [1, 2]
    documents = [([*instruction, *range(10 * d, 10 * d + 8)], 10) for d in (1, 2, 3)]
    assert found(make_rows(*documents)) == [(10, 10)] * 3
    # two rows a document share more with everybody than with each other
    documents = [([*instruction, 10 * d], 2) for d in range(1, 11)]
    assert found(make_rows(*documents)) == [(20, 2)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=60))
def test_groups_are_disjoint_and_share_what_they_say(prefixes: list[list[int]]) -> None:
    rows = make_rows(*((prefix, 1) for prefix in prefixes))
    groups = find_groups(rows, least=1)
    members = [sequence.lane for group, _ in groups for sequence in group]
    assert len(members) == len(set(members))
    for group, count in groups:
        assert len(group) >= MIN_ROWS and count >= 1
        assert len({tuple(sequence.blocks[:count]) for sequence in group}) == 1


def make_groups(rows: list[Sequence], block_size: int = 1024) -> PrefixGroups:
    groups = PrefixGroups(256, block_size)
    for sequence in rows:
        groups.admit(sequence)
    for _ in range(sharing.FIRST_REST):
        groups.look(rows)
    return groups


def test_a_step_puts_the_members_of_a_group_side_by_side() -> None:
    rows = make_rows(([1, 2, 3], 40), ([7], 1), ([4, 5], 9), ([8], 1))
    lanes = np.arange(51, dtype=np.int32)[::-1]
    ordered, shared = make_groups(rows).arrange(lanes)
    # groups in the order of their last block, their members in the order they came, those of none behind
    assert ordered.tolist() == [*range(39, -1, -1), *range(49, 40, -1), 50, 40]
    assert shared.lens.tolist() == [3 * 1024] * 40 + [2 * 1024] * 9 + [0, 0]
    assert (shared.starts.tolist(), shared.counts.tolist()) == ([0, 32, 40], [32, 8, 9])


def test_what_is_too_small_to_pay_is_not_shared() -> None:
    rows = make_rows(([1, 2, 3], 20))
    lanes = np.arange(20, dtype=np.int32)
    assert make_groups(rows, block_size=16).arrange(lanes)[1] is None
    # most of the group has ended
    ordered, shared = make_groups(rows).arrange(lanes[: MIN_ROWS - 1])
    assert shared is None and ordered.tolist() == lanes[: MIN_ROWS - 1].tolist()


def test_a_sequence_that_comes_later_joins_its_group() -> None:
    groups = make_groups(make_rows(([1, 2, 3], 20)))
    late = make_rows(([1, 2, 3], 1), ([1, 2, 9], 1), first=100)
    for sequence in late:
        groups.admit(sequence)
    ordered, shared = groups.arrange(np.array([*range(20), 100, 101], dtype=np.int32))
    assert ordered.tolist() == [*range(20), 100, 101]
    assert shared.lens.tolist() == [3072] * 21 + [0]


def test_looking_in_vain_becomes_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(sharing, "find_groups", lambda *_, **__: looks.append(1) or [])
    groups = PrefixGroups(256, 16)
    for step in range(4 * sharing.LONGEST_REST):
        groups.admit(make_sequence(step % 256, [step]))
        groups.look([])
    assert len(looks) <= 10


def test_every_tile_of_any_grouping_fits_the_captured_grid() -> None:
    for sizes in ([8] * 12, [33, 9], [8], [64, 40, 8]):
        _, counts = sharing.tiles_of(np.array(sizes))
        assert len(counts) <= max_tiles(sum(sizes))
        assert counts.sum() == sum(sizes)


def test_inputs_of_a_captured_step_hold_the_batch_and_padding_that_shares_nothing() -> None:
    lanes = DeviceLanes(64, 4, 16, torch.device("cpu"))
    inputs = GraphInputs(lanes, 32, padding_block=99)
    shared = SharedPrefix(*(np.array(x, dtype=np.int32) for x in ([32, 32, 0], [0], [2])))
    columns = [np.array(x, dtype=np.int32) for x in ([5, 6, 7], [40, 41, 42], [3, 4, 5])]
    inputs.fill(32, Batch(*columns, [], shared=shared), is_shared=True)
    step = inputs.step(32, is_shared=True).attention
    assert step.decode_lanes.tolist() == [5, 6, 7] + [64] * 29
    assert step.decode_lens.tolist() == [41, 42, 43] + [1] * 29
    assert step.shared.lens.tolist() == [32, 32] + [0] * 30
    assert (step.shared.starts.tolist(), step.shared.counts.tolist()) == ([0, 0, 0, 0], [2, 0, 0, 0])
    inputs.fill(32, None, is_shared=True)
    assert not inputs.step(32, is_shared=True).attention.shared.counts.any()


def test_outputs_are_those_of_the_eager_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    decode = SdpaBackend.decode

    def watched(self: SdpaBackend, call: AttentionCall) -> torch.Tensor:
        seen.append(call.step.shared)
        return decode(self, call)

    monkeypatch.setattr(SdpaBackend, "shares_prefixes", True)
    monkeypatch.setattr(SdpaBackend, "decode", watched)
    monkeypatch.setattr(sharing, "MIN_SAVED_TOKENS", 1)
    monkeypatch.setattr(sharing, "FIRST_REST", 2)
    model = tiny_model("llama")
    instructions = make_prompts(70, 66, seed=5)
    prompts = [
        np.concatenate([instructions[i % 2], tail]) for i, tail in enumerate(make_prompts(*range(1, 25), seed=6))
    ]
    engine = PackedEngine(model, None, (), PackedOptions(block_size=16, token_budget=64, num_blocks=300))
    done = run_all(engine, make_requests(prompts, max_new_tokens=20))
    engine.close()
    assert [done[i].output_ids.tolist() for i in sorted(done)] == reference_outputs(model, prompts, 20)
    assert any(shared is not None and len(shared.starts) >= 2 for shared in seen)


class WrongBackend(SdpaBackend):
    """Forgets the tokens that rows share."""

    shares_prefixes = True

    def decode(self, call: AttentionCall) -> torch.Tensor:
        out = super().decode(call)
        return out if call.step.shared is None else out * 1.5


class RightBackend(SdpaBackend):
    shares_prefixes = True


@pytest.mark.parametrize(("backend", "block_size", "allowed"), [
    (RightBackend(), 16, True), (RightBackend(), 8, False), (SdpaBackend(), 16, False), (WrongBackend(), 16, False),
])  # fmt: skip
def test_a_backend_that_shares_wrongly_may_not(
    backend: AttentionBackend, block_size: int, allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model("llama")
    engine = PackedEngine(model, None, (), PackedOptions(num_blocks=32))
    layer = engine.components.layers[0]
    engine.close()
    assert can_share(backend, layer, block_size, torch.device("cpu")) is allowed
    assert ("other results" in caplog.text) is isinstance(backend, WrongBackend)


def check_steps(scheduler: Scheduler) -> list[Batch]:
    """Look at every step of the scheduler from now on; the list grows by those that share something."""
    schedule, sharing_steps = scheduler.schedule, []

    def look() -> Batch | None:
        batch = schedule()
        if batch is not None and batch.shared is not None:
            assert_shares_what_it_says(scheduler, batch)
            sharing_steps.append(batch)
        return batch

    scheduler.schedule = look
    return sharing_steps


def assert_shares_what_it_says(scheduler: Scheduler, batch: Batch) -> None:
    shared, size = batch.shared, scheduler.pool.block_size
    assert len(shared.lens) == len(batch.decode_lanes)
    in_tiles = np.zeros(len(shared.lens), dtype=bool)
    for start, count in zip(shared.starts, shared.counts, strict=True):
        rows = slice(start, start + count)
        assert 0 < count <= sharing.TILE_ROWS and not in_tiles[rows].any()
        in_tiles[rows] = True
        (length,) = set(shared.lens[rows].tolist())
        members = [scheduler.running[lane] for lane in batch.decode_lanes[rows].tolist()]
        assert length % size == 0 and (batch.positions[rows] >= length).all()
        assert len({tuple(sequence.blocks[: length // size]) for sequence in members}) == 1
        assert len({sequence.tokens[:length].tobytes() for sequence in members}) == 1
    assert (in_tiles == (shared.lens > 0)).all()


def run_rows(rows: list[tuple[int, int, int]], num_blocks: int, lag: int) -> int:
    """Schedule rows of (which prefix, tokens behind it, outputs) to their end; how many steps shared something."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MIN_SAVED_TOKENS", 1), ("MIN_ROWS", 3), ("FIRST_REST", 2)):
            patch.setattr(sharing, name, value)
        pool = BlockPool(num_blocks, 4)
        scheduler = Scheduler(
            pool, LaneTable(16, 64), token_budget=48, max_model_len=256, prefix_groups=PrefixGroups(16, 4)
        )
        steps = check_steps(scheduler)
        params = SamplingParams(max_new_tokens=30)
        for index, (prefix, tail, _) in enumerate(rows):
            ids = np.concatenate([np.full(68, prefix), 1000 * (index + 1) + np.arange(tail)]).astype(np.int32)
            scheduler.add(Sequence(GenerationRequest(id=index, prompt_ids=ids, params=params)))
        stops = {index: num_outputs for index, (_, _, num_outputs) in enumerate(rows)}
        assert simulate(scheduler, stops, lag) == stops
        assert pool.num_free == num_blocks
    return len(steps)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 30)), min_size=1, max_size=40),
    num_blocks=st.integers(40, 120),
    lag=st.integers(0, 1),
)
def test_any_workload_ends_and_shares_only_what_is_shared(
    rows: list[tuple[int, int, int]], num_blocks: int, lag: int
) -> None:
    run_rows(rows, num_blocks, lag)


def test_most_steps_of_rows_behind_one_prefix_share_it() -> None:
    assert run_rows([(0, 1 + i % 9, 25) for i in range(16)], 200, 1) > 15
