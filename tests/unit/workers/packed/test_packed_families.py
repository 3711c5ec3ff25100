"""Packed greedy tokens equal the tokens of the model's own eager `generate`, for every family that is served."""

from __future__ import annotations

import pytest

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.packed.packed_families import (
    FAMILIES,
    REFUSED,
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_greedy_tokens_equal_generate(model_type: str) -> None:
    model = tiny_model(model_type)
    prompts = make_prompts(3, 17, 40, 1, 9)
    expected = reference_outputs(model, prompts, 10)
    assert PackedEngine.unsupported_reason(model) is None
    # A budget below the longest prompt: chunked prefill, mixed with decodes.
    engine = PackedEngine(model, None, [], PackedOptions(block_size=8, token_budget=24, num_blocks=40))
    done = run_all(engine, make_requests(prompts, max_new_tokens=10))
    assert [done[i].output_ids.tolist() for i in range(len(prompts))] == expected
    assert engine.stats()["padding_tokens"] == 0


@pytest.mark.parametrize("model_type", REFUSED)
def test_families_without_the_hook_are_refused(model_type: str) -> None:
    model = tiny_model(model_type)
    before = model.config._attn_implementation
    assert PackedEngine.unsupported_reason(model)
    with pytest.raises(UnsupportedModel):
        PackedEngine(model, None, [])
    assert model.config._attn_implementation == before
