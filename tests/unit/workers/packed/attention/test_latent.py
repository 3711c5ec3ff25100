"""Attention on latents is attention on the keys and values that are made of them, and what cannot be absorbed stays."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parquetry.workers.packed.attention.call import AttentionSpec
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.latent import Latents, absorb_projections, has_latents, latents_of
from parquetry.workers.packed.attention.sdpa import attend_segment
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.startup import LATENTS
from tests.unit.workers.packed.packed_families import (
    MLA,
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)

HEADS, PLAIN, TURNED, VALUE = 3, 8, 4, 6
#: ranks that fill one head, two heads, and one and a half
RANKS = (14, 28, 21)
OPTIONS = PackedOptions(num_blocks=64, block_size=8)


def made_by(module: nn.Module, latents: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (num_tokens, heads, dim) as attention modules make them of latents (num_tokens, rank)."""
    heads = module(latents).unflatten(-1, (-1, PLAIN + VALUE))
    keys = torch.cat([heads[..., :PLAIN], turned[:, None].expand(-1, heads.shape[1], -1)], -1)
    return keys, heads[..., PLAIN:]


@pytest.mark.parametrize("rank", RANKS)
def test_absorbed_queries_find_in_latents_what_queries_find_in_keys(rank: int) -> None:
    torch.manual_seed(0)
    projection = nn.Linear(rank, HEADS * (PLAIN + VALUE), bias=False).double()
    latents = Latents(projection, (rank, PLAIN, TURNED, VALUE))
    q, given, turned = (torch.randn(shape).double() for shape in ((5, HEADS, PLAIN + TURNED), (5, rank), (5, TURNED)))
    want = attend_segment(q, *made_by(projection, given, turned), AttentionSpec(0.3))
    absorbed = latents.absorb(q, *made_by(latents, given, turned))
    assert [x.shape for x in absorbed] == [(5, HEADS, rank + TURNED), (5, 1, rank + TURNED), (5, 1, rank)]
    torch.testing.assert_close(latents.expand(attend_segment(*absorbed, AttentionSpec(0.3))), want)


def test_latents_and_what_turns_are_told_apart_by_hand() -> None:
    projection = nn.Linear(2, 2, bias=False)
    # the key is twice the first number of the latent, the value three times the second
    projection.weight.data = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    latents = Latents(projection, (2, 1, 1, 1))
    k, v = made_of(latents, torch.tensor([[5.0, 7.0]]), torch.tensor([[11.0]]))
    q, keys, values = latents.absorb(torch.tensor([[[1.0, 10.0]]]), k, v)
    assert q.tolist() == [[[2.0, 0.0, 10.0]]]
    assert keys.tolist() == [[[5.0, 7.0, 11.0]]]
    assert values.tolist() == [[[5.0, 7.0]]]
    assert latents.expand(values).tolist() == [[[21.0]]]


def made_of(latents: Latents, given: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    heads = latents(given).unflatten(-1, (-1, 2))
    return torch.cat([heads[..., :1], turned[:, None]], -1), heads[..., 1:]


def attention_module(**changes: object) -> nn.Module:
    """What an attention module of the family says of itself."""
    module = nn.Module()
    sizes = {"kv_lora_rank": 14, "qk_nope_head_dim": PLAIN, "qk_rope_head_dim": TURNED, "v_head_dim": VALUE}
    for name, value in {**sizes, "kv_b_proj": nn.Linear(14, HEADS * (PLAIN + VALUE), bias=False), **changes}.items():
        setattr(module, name, value)
    return module


def layer_of(module: nn.Module) -> LayerShape:
    return LayerShape(module, HEADS, HEADS, PLAIN + TURNED, VALUE, torch.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_b_proj": nn.Linear(14, HEADS * (PLAIN + VALUE))},
        {"kv_b_proj": nn.Linear(12, HEADS * (PLAIN + VALUE), bias=False)},
        {"kv_b_proj": type("AdaptedLinear", (nn.Linear,), {})(14, HEADS * (PLAIN + VALUE), bias=False)},
        {"v_head_dim": None},
        {"packed_sliding_window": 4},
    ],
    ids=["a bias", "another rank", "a layer of another kind", "no size of values", "a window"],
)
def test_what_cannot_be_absorbed_keeps_keys_and_values(changes: dict[str, object]) -> None:
    assert not has_latents([layer_of(attention_module()), layer_of(attention_module(**changes))])


def test_the_product_comes_back() -> None:
    module = attention_module()
    before = module.kv_b_proj
    with ExitStack() as undo:
        (layer,) = absorb_projections([layer_of(module)], undo)
        assert latents_of(module) is module.kv_b_proj is not before
        # a float32 number for the latent and for what turns, and no values
        assert layer.bytes_per_token == 4 * (14 + TURNED)
    assert module.kv_b_proj is before
    assert latents_of(module) is None


#: model type -> what makes it tiny, where no list of families has it yet
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**MLA, **EXPERTS, "num_key_value_heads": 4, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "deepseek_v3": {},
    "glm4_moe_lite": {**MLA, **EXPERTS, "num_key_value_heads": 4, "n_group": 1, "topk_group": 1},
    "minicpm3": {**MLA, "num_key_value_heads": 4},
    "youtu": {**MLA, "num_key_value_heads": 4},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_keep_latents_and_give_the_stock_tokens(family: str) -> None:
    model = tiny_model(family, **FAMILIES[family])
    prompts = make_prompts(3, 17, 30)
    want = reference_outputs(model, prompts, 12)
    engine = PackedEngine(model, None, (), OPTIONS)
    assert all(layer.values_in_keys for layer in engine.components.layers)
    assert engine.components.taken_back == {}
    done = run_all(engine, make_requests(prompts, max_new_tokens=12))
    assert [list(done[i].output_ids) for i in range(3)] == want
    engine.close()
    assert all(isinstance(layer.module.kv_b_proj, nn.Linear) for layer in engine.components.layers)


def test_latents_in_float8_take_a_quarter_of_float32() -> None:
    engine = PackedEngine(tiny_model("deepseek_v3").bfloat16(), None, (), replace(OPTIONS, kv_dtype="fp8"))
    done = run_all(engine, make_requests(make_prompts(3, 17), max_new_tokens=4))
    assert [len(completion.output_ids) for completion in done.values()] == [4, 4]


def test_an_absorption_that_changes_the_layers_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Latents.expand
    monkeypatch.setattr(Latents, "expand", lambda self, out: right(self, out) * 1.05)
    model = tiny_model("deepseek_v3")
    want = reference_outputs(model, make_prompts(9), 6)
    engine = PackedEngine(model, None, (), OPTIONS)
    assert list(engine.components.taken_back) == [LATENTS]
    assert not engine.components.layers[0].values_in_keys
    done = run_all(engine, make_requests(make_prompts(9), max_new_tokens=6))
    assert list(done[0].output_ids) == want[0]
    assert "some fifty times as much" in engine.describe()["runs_without"]
