"""Which layers are swapped for int8 ones, what they share with torchao's, and that undoing gives the very same back."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.workers.packed.packed_families import tiny_model

pytest.importorskip("torchao")

from torchao.quantization import (
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    PerGroup,
    PerTensor,
    quantize_,
)

from parquetry.workers.fusing.int8_linear import Int8Linear, has_int8_weight, swap_int8_layers
from parquetry.workers.fusing.merged_projections import MergedProjection, MergedScaledLinear, merge_projections
from parquetry.workers.loading.adapters.adapter_bank import AdaptedLinear, AdapterBank
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.startup import Changes, speed_up
from parquetry.workers.parallel.group import SOLO


def quantized(module: nn.Module, **options: Any) -> nn.Module:
    head = getattr(module, "lm_head", None)
    config = Int8WeightOnlyConfig(version=2, set_inductor_config=False, **options)
    quantize_(module, config, lambda child, _: isinstance(child, nn.Linear) and child is not head)
    return module


def linear(**options: Any) -> nn.Module:
    return quantized(nn.Sequential(nn.Linear(64, 48, dtype=torch.bfloat16)), **options)[0]


def model_of(family: str = "qwen2") -> nn.Module:
    return quantized(tiny_model(family).to(torch.bfloat16))


def test_only_weights_with_a_scale_per_row_are_taken() -> None:
    assert has_int8_weight(linear())
    assert not has_int8_weight(linear(granularity=PerGroup(32)))
    assert not has_int8_weight(linear(granularity=PerTensor()))
    assert not has_int8_weight(nn.Linear(64, 48, dtype=torch.bfloat16))
    assert not has_int8_weight(nn.LayerNorm(4))


def test_quantized_or_scaled_inputs_are_left_alone() -> None:
    dynamic = nn.Sequential(nn.Linear(64, 48, dtype=torch.bfloat16))
    quantize_(dynamic, Int8DynamicActivationInt8WeightConfig(version=2, set_inductor_config=False))
    assert not has_int8_weight(dynamic[0])
    scaled, skewed = linear(), linear()
    scaled.weight.act_pre_scale = torch.ones(64)
    skewed.weight.zero_point = torch.ones(48, 1, dtype=torch.int8)
    assert not has_int8_weight(scaled) and not has_int8_weight(skewed)


def test_layers_with_hooks_and_of_other_classes_are_left_alone() -> None:
    class Special(nn.Linear):
        pass

    hooked, special = linear(), quantized(nn.Sequential(Special(64, 48, dtype=torch.bfloat16)))[0]
    hooked.register_forward_hook(lambda *_: None)
    assert not has_int8_weight(hooked) and not has_int8_weight(special)


def test_swapped_layers_hold_nothing_of_their_own_and_are_put_back() -> None:
    model = model_of()
    before = dict(model.named_modules())
    names, keys = [name for name, _ in model.named_parameters()], list(model.state_dict())
    put_back = swap_int8_layers(model)
    down, linear = model.model.layers[0].mlp.down_proj, before["model.layers.0.mlp.down_proj"]
    assert type(down) is Int8Linear and type(model.lm_head) is nn.Linear
    assert down.values.data_ptr() == linear.weight.qdata.data_ptr()
    assert down.scale.data_ptr() == linear.weight.scale.data_ptr()
    assert down.weight is linear.weight and down.bias is linear.bias
    assert [name for name, _ in model.named_parameters()] == names and list(model.state_dict()) == keys
    put_back()
    assert all(module is before[name] for name, module in model.named_modules())


@torch.inference_mode()
def test_merged_int8_projections_share_one_weight() -> None:
    model = model_of()
    attention, ids = model.model.layers[0].self_attn, torch.arange(3, 20)[None]
    q_proj, v_proj = attention.q_proj, attention.v_proj
    want, scales, values = model(ids).logits, v_proj.weight.scale.clone(), v_proj.weight.qdata.clone()
    undos = [swap_int8_layers(model), merge_projections(model)]
    merged = attention.q_proj.owner[0]
    assert type(merged) is MergedScaledLinear and type(attention.v_proj) is MergedProjection
    assert merged.widths == [32, 16, 16] and merged.bias.shape == (64,)
    assert merged.weight.data_ptr() == q_proj.weight.qdata.data_ptr()
    assert merged.weight[48:].data_ptr() == v_proj.weight.qdata.data_ptr()
    assert merged.scale[48:].data_ptr() == v_proj.weight.scale.data_ptr()
    assert torch.equal(v_proj.weight.qdata, values) and torch.equal(v_proj.weight.scale, scales)
    for undo in reversed(undos):
        undo()
    assert attention.q_proj is q_proj and attention.v_proj is v_proj
    assert torch.equal(model(ids).logits, want)


def test_layers_are_swapped_inside_adapted_ones() -> None:
    model = model_of("llama")
    attention = model.model.layers[0].self_attn
    rank = (torch.ones(4, 32, dtype=torch.bfloat16), torch.ones(32, 4, dtype=torch.bfloat16))
    adapted = attention.q_proj = AdaptedLinear(attention.q_proj, AdapterBank(["a"]), {1: rank})
    base = adapted.base
    undos = [swap_int8_layers(model), merge_projections(model)]
    assert type(adapted.base) is Int8Linear and adapted.weight is base.weight
    # an adapted projection is computed beside the others
    assert attention.q_proj is adapted and type(attention.k_proj) is Int8Linear
    assert type(model.model.layers[0].mlp.gate_proj) is MergedProjection
    for undo in reversed(undos):
        undo()
    assert adapted.base is base


def test_an_int8_layer_is_not_merged_with_a_plain_one() -> None:
    model = model_of("llama")
    attention = model.model.layers[0].self_attn
    attention.k_proj = nn.Linear(32, 16, bias=False, dtype=torch.bfloat16)
    swap_int8_layers(model)
    merge_projections(model)
    assert type(attention.q_proj) is Int8Linear and type(attention.k_proj) is nn.Linear


@pytest.mark.parametrize(("options", "merged"), [({"compile": False}, False), ({}, True)])
def test_int8_layers_are_swapped_whether_or_not_layers_compile(
    options: dict[str, bool], merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card that is none: nothing is computed."""
    model = model_of("llama")
    before = dict(model.named_modules())
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    monkeypatch.setattr("parquetry.workers.packed.startup.is_installed", lambda _: True)
    monkeypatch.setattr("parquetry.workers.packed.startup.has_hopper_kernel", lambda *_: False)
    undo = ExitStack()
    speed_up(Changes(SimpleNamespace(group=SOLO), [], undo), model, [], PackedOptions(**options), is_shared=False)
    layer = model.model.layers[0]
    assert type(layer.mlp.down_proj) is Int8Linear
    assert type(layer.self_attn.q_proj) is (MergedProjection if merged else Int8Linear)
    undo.close()
    assert all(module is before[name] for name, module in model.named_modules())


def test_torchao_is_left_alone_on_a_cpu() -> None:
    model = model_of("llama")
    speed_up(Changes(SimpleNamespace(group=SOLO), [], ExitStack()), model, [], PackedOptions(), is_shared=False)
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
