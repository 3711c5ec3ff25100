"""The reference backend against hand-computed rows and against attention over the whole sequence."""

from __future__ import annotations

import math

import pytest
import torch

from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec, AttentionStep, PrefillTensors
from parquetry.workers.packed.attention.sdpa import SdpaBackend, attend_segment, gather_blocks, visible_keys

SPECS = {
    "plain": AttentionSpec(0.5),
    "window": AttentionSpec(0.5, sliding_window=3),
    "softcap": AttentionSpec(0.5, softcap=2.0),
    "sinks": AttentionSpec(0.5, sliding_window=4, sinks=torch.tensor([0.3, -1.0, 2.0, 0.0])),
}


def test_a_window_counts_the_query_itself() -> None:
    positions = torch.arange(4)
    assert visible_keys(positions, positions, 2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


def test_sinks_take_weight_from_the_keys() -> None:
    q = k = torch.zeros(2, 1, 1)
    v = torch.tensor([2.0, 4.0]).view(2, 1, 1)
    out = attend_segment(q, k, v, AttentionSpec(1.0, sinks=torch.tensor([0.0])))
    assert torch.allclose(out.flatten(), torch.tensor([1.0, 2.0]))


def test_softcap_bounds_the_scores() -> None:
    q = torch.tensor([0.0, 1000.0]).view(2, 1, 1)
    k = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    v = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    out = attend_segment(q, k, v, AttentionSpec(1.0, softcap=1.0))
    assert math.isclose(float(out[1]), 1 / (1 + math.exp(-1.0)), rel_tol=1e-5)


def test_blocks_are_read_in_table_order() -> None:
    cache = torch.arange(3 * 2 * 1).view(3, 1, 2, 1)
    assert gather_blocks(cache, torch.tensor([2, 0])).flatten().tolist() == [4, 5, 0, 1]


@pytest.mark.parametrize("name", SPECS)
def test_chunks_and_decodes_equal_the_whole_sequence(name: str) -> None:
    spec, generator = SPECS[name], torch.Generator().manual_seed(0)
    total, first, size = 11, 6, 4
    q = torch.randn(total, 4, 8, generator=generator)
    k, v = torch.randn(total, 2, 8, generator=generator), torch.randn(total, 2, 6, generator=generator)
    want = attend_segment(q, k, v, spec)
    table = torch.tensor([[5, 1, 3]], dtype=torch.int32)
    caches = torch.zeros(7, 2, size, 8), torch.zeros(7, 2, size, 6)
    slots = table[0, torch.arange(total) // size].long() * size + torch.arange(total) % size
    backend = SdpaBackend()

    def step(start: int, stop: int, decode: bool) -> torch.Tensor:
        lens = torch.tensor([stop], dtype=torch.int32)
        lane = torch.zeros(1, dtype=torch.int32)
        cu = torch.tensor([0, stop - start], dtype=torch.int32)
        prefill = PrefillTensors(cu, stop - start, lens, lane, start == 0, [stop - start], [stop])
        state = AttentionStep(slots[start:stop], table, size, int(decode), lane, lens, None if decode else prefill)
        call = AttentionCall(*(x[start:stop] for x in (q, k, v)), *caches, state, spec)
        if decode:
            return backend.decode(call)
        backend.write(call)
        return backend.prefill(call)

    got = [step(0, 2, False), step(2, first, False), *(step(i, i + 1, True) for i in range(first, total))]
    assert torch.allclose(torch.cat(got), want, atol=1e-5)
