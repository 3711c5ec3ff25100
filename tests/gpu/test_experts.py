"""Mixtures of experts on a CUDA device: right, the same bits every time, in compiled and captured steps as well."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from parquetry.workers.fusing.experts import IMPLEMENTATION, experts_forward, reason_against, use_expert_kernels
from parquetry.workers.packed.checks.sharing_check import relative_error
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.unit.workers.fusing.expert_batches import ROUTINGS, make_routing
from tests.unit.workers.fusing.test_experts import Model, by_class

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
NUM_EXPERTS, TOP_K = 16, 4
CONFIG = {
    "hidden_size": 256, "intermediate_size": 192, "moe_intermediate_size": 192, "hidden_act": "silu",
    "num_experts": NUM_EXPERTS, "num_local_experts": NUM_EXPERTS, "swiglu_alpha": 1.702, "swiglu_limit": 7.0,
}  # fmt: skip
CLASSES = {"qwen3_moe": Qwen3MoeExperts, "gpt_oss": GptOssExperts}


def make_experts(family: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    experts = CLASSES[family](SimpleNamespace(**CONFIG, _experts_implementation="grouped_mm")).cuda().to(dtype)
    for parameter in experts.parameters():
        parameter.data.normal_(0.0, 0.1)
    use_expert_kernels(Model(experts))
    return experts


def make_batch(kind: str, num_tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    ids, weights = make_routing(kind, num_tokens, TOP_K, NUM_EXPERTS)
    return torch.randn(num_tokens, 256).cuda().to(dtype), ids.cuda(), weights.cuda().to(dtype)


# 4,000 tokens are placed in parts, and experts have more rows than a tile
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_tokens", [1, 33, 300, 4000])
@pytest.mark.parametrize("family", CLASSES)
def test_experts_are_those_of_their_class_and_give_the_same_bits_again(
    family: str, num_tokens: int, dtype: torch.dtype
) -> None:
    experts = make_experts(family, dtype)
    for kind in ROUTINGS[:3]:
        batch = make_batch(kind, num_tokens, dtype)
        got = experts(*batch)
        want = by_class(make_experts(family, torch.float32), batch[0].float(), batch[1], batch[2].float())
        assert relative_error(got, want) < (8e-3 if dtype == torch.bfloat16 else 1e-3)
        assert torch.equal(experts(*batch), got)
        # nor does a token's row depend on where its neighbours are
        order = torch.randperm(num_tokens, device="cuda")
        assert torch.equal(experts(*(part[order] for part in batch)), got[order])


@torch.inference_mode()
@pytest.mark.parametrize("num_tokens", [33, 4000])
def test_pairs_of_other_ranks_count_for_nothing(num_tokens: int) -> None:
    experts = make_experts("qwen3_moe", torch.bfloat16)
    batch = make_batch("sentinels", num_tokens, torch.bfloat16)
    want = by_class(make_experts("qwen3_moe", torch.float32), batch[0].float(), batch[1], batch[2].float())
    assert relative_error(experts(*batch), want) < 8e-3


@torch.inference_mode()
def test_a_captured_layer_follows_its_inputs() -> None:
    experts, batch = make_experts("gpt_oss", torch.bfloat16), make_batch("even", 64, torch.bfloat16)
    experts(*batch)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = experts(*batch)
    for part, new in zip(batch, make_batch("skewed", 64, torch.bfloat16), strict=True):
        part.copy_(new)
    graph.replay()
    assert torch.equal(out, experts(*batch))


def test_float32_stays_with_transformers() -> None:
    experts = CLASSES["qwen3_moe"](SimpleNamespace(**CONFIG, _experts_implementation="grouped_mm")).cuda()
    assert reason_against(experts) == "float32 has no kernel; choose bfloat16 or float16"


SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512, "initializer_range": 0.1,
    "num_experts_per_tok": TOP_K,
}  # fmt: skip
MODELS: dict[str, Any] = {
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, num_experts=NUM_EXPERTS, moe_intermediate_size=192)
    ),
    "gpt_oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=NUM_EXPERTS, sliding_window=32)),
}


@pytest.mark.parametrize("family", MODELS)
def test_compiled_and_captured_steps_follow_the_eager_model(family: str) -> None:
    torch.manual_seed(0)
    model = MODELS[family]().to("cuda", torch.bfloat16).eval()
    engine = PackedEngine(model, None, (), PackedOptions(token_budget=256, max_num_seqs=8, num_blocks=200))
    assert engine.runner.graphs is not None and model.config._experts_implementation == IMPLEMENTATION
    rng = np.random.default_rng(0)
    params = SamplingParams(max_new_tokens=16)
    prompts = [rng.integers(0, 512, length).astype(np.int32) for length in (1, 3, 200, 64, 17)]
    engine.add([GenerationRequest(id=i, row=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
    outputs = {}
    while engine.num_unfinished:
        outputs.update({completion.id: completion.output_ids for completion in engine.step()})
    engine.close()
    assert model.config._experts_implementation == "grouped_mm"
    ours, eager = gaps(model, prompts, outputs)
    # where bfloat16 cannot decide between tokens or experts, eager's choice is as far from float32's as ours
    assert float(ours.sum()) <= 1.5 * float(eager.sum()) + 1.0


@torch.inference_mode()
def gaps(model: nn.Module, prompts: list[np.ndarray], outputs: dict[int, Any]) -> tuple[Tensor, Tensor]:
    """How far below float32's best token each of `outputs` is, and the token that the eager model would have chosen."""
    precise, ours, eager = copy.deepcopy(model).float(), [], []
    for number, prompt in enumerate(prompts):
        ids = torch.from_numpy(np.concatenate([prompt, outputs[number]]).astype(np.int64))[None].cuda()
        logits, rounded = (each(ids).logits[0, len(prompt) - 1 : -1].float() for each in (precise, model))
        for chosen, found in ((ids[0, len(prompt) :], ours), (rounded.argmax(-1), eager)):
            found.append(logits.amax(-1) - logits.gather(-1, chosen[:, None])[:, 0])
    return torch.cat(ours), torch.cat(eager)


def test_the_function_is_registered_under_its_name() -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    make_experts("qwen3_moe", torch.bfloat16)
    assert ALL_EXPERTS_FUNCTIONS[IMPLEMENTATION] is experts_forward
