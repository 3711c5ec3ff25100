"""Rotary frequencies by the row's own length: neighbours change nothing, and a row that grows long is computed anew."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedModel

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.long_rope import RowRope
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)

SWITCH = 40
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4, "long_factor": [1.0, 1.5, 2.0, 2.5],
}  # fmt: skip
#: short to the end, at the switch, one that crosses it, one behind it, and two that are long from the start
LENGTHS = (5, SWITCH - 12, SWITCH - 6, SWITCH, SWITCH + 1, 70)


def long_model(switch: int = SWITCH) -> PreTrainedModel:
    rope = {**LONGROPE, "original_max_position_embeddings": switch}
    return tiny_model("phi3", rope_parameters=rope, original_max_position_embeddings=switch)


@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize("lanes", [2, 64])
def test_rows_side_by_side_have_the_tokens_of_rows_alone(lookahead: bool, lanes: int) -> None:
    prompts = make_prompts(*LENGTHS)
    # blocks of 4: a short row and a long one that begin alike share no block
    prompts.append(np.concatenate([prompts[0], make_prompts(60, seed=3)[0]]))
    expected = reference_outputs(long_model(), prompts, 12)
    options = PackedOptions(num_blocks=256, block_size=4, max_num_seqs=lanes, lookahead=lookahead)
    engine = PackedEngine(long_model(), None, (), options)
    done = run_all(engine, make_requests(prompts, max_new_tokens=12))
    assert [done[i].output_ids.tolist() for i in sorted(done)] == expected
    assert engine.stats()["preemptions"] >= 2


def test_the_stock_rotary_embedding_comes_back() -> None:
    model = long_model()
    stock = model.model.rotary_emb
    engine = PackedEngine(model, None, (), PackedOptions(num_blocks=64))
    assert type(model.model.rotary_emb) is RowRope
    engine.close()
    assert model.model.rotary_emb is stock
    assert model.config.rope_parameters["original_max_position_embeddings"] == SWITCH


def test_a_rope_that_ignores_the_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although no prompt of the check would be long: the switch is shortened for it."""
    monkeypatch.setattr(RowRope, "forward", forget_lengths(RowRope.forward))
    with pytest.raises(UnsupportedModel, match="times its stock form's noise"):
        PackedEngine(long_model(100), None, (), PackedOptions(num_blocks=64))


def forget_lengths(forward):
    def forgetful(self, x, position_ids):
        self.lengths.are_long = None
        return forward(self, x, position_ids)

    return forgetful


def test_dynamic_frequencies_serve_rows_of_the_trained_length_alone() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    prompts = make_prompts(5, 30, 70)
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=64)
    engine = PackedEngine(model, None, (), PackedOptions(num_blocks=64, max_model_len=256))
    done = run_all(engine, make_requests(prompts, max_new_tokens=8))
    fresh = tiny_model("llama", rope_parameters=rope, max_position_embeddings=64)
    assert [done[i].output_ids.tolist() for i in (0, 1)] == reference_outputs(fresh, prompts[:2], 8)
    assert "prompt and output together may have 64" in done[2].error
