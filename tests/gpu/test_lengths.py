"""What depends on a row's length on a CUDA device: LongRoPE and windows, in compiled layers and captured steps.

Tokens are held against the stock eager model, one row at a time, along the engine's own history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import Completion, GenerationRequest
from tests.gpu.greedy_rows import VOCAB, greedy_gaps, logits_along, make_requests, run_all

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
DEVICE, HALF = "cuda", torch.bfloat16
NUM_NEW = 40
#: rows are long beyond this, and see as many keys where a layer has a window
LENGTH = 96
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 1024, "initializer_range": 0.2,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": LENGTH,
    "short_factor": [1.0] * 32, "long_factor": [1.0 + 0.25 * i for i in range(32)],
}  # fmt: skip
SLIDING = {"sliding_window": LENGTH, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128}
#: where each class keeps its windows: in the config and the attention call, or in the mask alone
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": LENGTH},
    "starcoder2": {"sliding_window": LENGTH},
    "gemma2": {**SLIDING, "query_pre_attn_scalar": 64},
    "qwen2_moe": {**SLIDING, **EXPERTS, "use_sliding_window": True, "shared_expert_intermediate_size": 128},
    "phimoe": {**EXPERTS, "sliding_window": LENGTH},
}
#: short to the end, up to the length and across it while they decode, long from the start, and one of several chunks
LENS = [1, 30, LENGTH - NUM_NEW, LENGTH - 20, LENGTH - 3, LENGTH, LENGTH + 1, 130, 200, 420]
#: share of tokens that may be the likeliest in float32 where the eager model's own were, and logits of others below
SHARE, NEAR = 0.05, 0.05
GRAPHS: dict[str, dict[str, Any]] = {
    "neither": {"compile": False, "graphs": False},
    "graphs only": {"compile": False},
    "compiled layers and graphs": {},
}


def make_model(family: str, dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    """Its frequencies are float32 in any dtype, as those of a model that is loaded."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).to(DEVICE).eval()


def phi3(dtype: torch.dtype, switch: int = LENGTH) -> PreTrainedModel:
    rope = {**LONGROPE, "original_max_position_embeddings": switch}
    return make_model("phi3", dtype, rope_parameters=rope, original_max_position_embeddings=switch)


def precise(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in float32."""
    other = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager", dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    return other.to(DEVICE).eval()


def engine_of(model: PreTrainedModel, **options: Any) -> PackedEngine:
    return PackedEngine(
        model, None, (), PackedOptions(token_budget=256, max_num_seqs=16, num_blocks=400, max_model_len=1024, **options)
    )


def require_ready(engine: PackedEngine, options: dict[str, Any]) -> None:
    """Nothing that makes the engine fast was taken back, so that it is what the test tries."""
    assert dict(engine.components.taken_back) == {}
    if DEVICE == "cuda":
        assert (engine.runner.graphs is None) == (options.get("graphs") is False)


def require_followed(
    model: PreTrainedModel, requests: list[GenerationRequest], done: list[Completion], switch: int = 0
) -> None:
    """The engine's tokens are the likeliest of the float32 model as often as the eager model's own, and no further off.

    `model` is the eager one in the engine's dtype, and both go along the engine's outputs.
    """
    judge = precise(model)
    ours, own = [], []
    for request, found in zip(requests, done, strict=True):
        logits = logits_along(judge, request, found.output_ids, switch=switch)
        ours.append(below_best(logits, torch.from_numpy(found.output_ids.astype(np.int64)).to(logits.device)))
        own.append(below_best(logits, logits_along(model, request, found.output_ids, switch=switch).argmax(-1)))
    gaps, noise = torch.cat(ours), torch.cat(own)
    assert float((gaps == 0).float().mean()) > float((noise == 0).float().mean()) - SHARE
    assert float(gaps.mean()) < 2 * float(noise.mean()) + NEAR
    assert float(gaps.max()) < 3 * float(noise.max()) + NEAR


def below_best(logits: Tensor, tokens: Tensor) -> Tensor:
    """(num_tokens,) how far each token's logit is below the best of logits (num_tokens, vocab_size)."""
    return logits.amax(-1) - logits.gather(-1, tokens[:, None])[:, 0]


def share_of_best(model: PreTrainedModel, requests: list[GenerationRequest], done: list[Completion]) -> float:
    """Of the engine's tokens, how many are the likeliest of `model`."""
    rows = zip(requests, done, strict=True)
    return float(np.mean(np.concatenate([greedy_gaps(model, row, found.output_ids) for row, found in rows]) == 0))


@pytest.mark.parametrize("options", GRAPHS.values(), ids=list(GRAPHS))
@pytest.mark.parametrize("attention", ["auto", "triton"])
def test_rows_have_the_frequencies_of_their_own_length(attention: str, options: dict[str, Any]) -> None:
    engine = engine_of(phi3(HALF), attention=attention, **options)
    require_ready(engine, options)
    requests = make_requests(LENS, max_new_tokens=NUM_NEW)
    done = run_all(engine, requests)
    # the rows that outgrow the short frequencies while they decode are computed anew
    assert engine.stats()["preemptions"] >= 3
    engine.close()
    require_followed(phi3(HALF), requests, done, LENGTH)
    # and the frequencies are no matter of rounding: with those of short rows the long ones would read otherwise
    assert share_of_best(phi3(HALF, 1024), requests[-2:], done[-2:]) < 0.5


def test_captured_steps_of_short_and_long_rows_are_those_without_a_graph() -> None:
    outputs = []
    for graphs in (False, True):
        options = {"attention": "triton" if DEVICE == "cuda" else "sdpa", "compile": False, "graphs": graphs}
        engine = engine_of(phi3(torch.float32), **options)
        require_ready(engine, options)
        requests = make_requests(LENS, max_new_tokens=NUM_NEW)
        done = run_all(engine, requests)
        engine.close()
        outputs.append([found.output_ids.tolist() for found in done])
    assert outputs[0] == outputs[1]
    require_followed(phi3(torch.float32), requests, done, LENGTH)


def test_a_row_answers_as_alone_whoever_is_beside_it() -> None:
    requests = make_requests(LENS, max_new_tokens=NUM_NEW)
    options = {"attention": "triton" if DEVICE == "cuda" else "sdpa", "compile": False}
    engine = engine_of(phi3(torch.float32), **options)
    together = run_all(engine, requests)
    alone = [run_all(engine, [request])[0] for request in requests]
    engine.close()
    assert [row.output_ids.tolist() for row in together] == [row.output_ids.tolist() for row in alone]


@pytest.mark.parametrize("options", GRAPHS.values(), ids=list(GRAPHS))
@pytest.mark.parametrize("family", WINDOWED)
def test_rows_that_outgrow_a_window_follow_the_eager_model(family: str, options: dict[str, Any]) -> None:
    engine = engine_of(make_model(family, HALF, **WINDOWED[family]), **options)
    require_ready(engine, options)
    slide = [layer.module.packed_sliding_window for layer in engine.components.layers]
    assert slide == [LENGTH, 0 if "layer_types" in WINDOWED[family] else LENGTH, LENGTH]
    requests = make_requests(LENS, max_new_tokens=NUM_NEW)
    done = run_all(engine, requests)
    engine.close()
    require_followed(make_model(family, HALF, **WINDOWED[family]), requests, done)


@pytest.mark.parametrize("family", ["mistral", "qwen2_moe"])
def test_a_window_longer_than_the_prompts_of_the_check_is_kept_in_graphs(family: str) -> None:
    """The check shortens it, and it is long again when the steps are captured."""
    changes = {**WINDOWED[family], "sliding_window": 400}
    engine = engine_of(make_model(family, HALF, **changes))
    require_ready(engine, {})
    requests = make_requests([380, 395, 430, 700], max_new_tokens=NUM_NEW)
    done = run_all(engine, requests)
    engine.close()
    require_followed(make_model(family, HALF, **changes), requests, done)
    # a window that was forgotten would read otherwise
    endless = make_model(family, HALF, **{**changes, "sliding_window": 1024})
    assert share_of_best(endless, requests[-1:], done[-1:]) < 0.9
