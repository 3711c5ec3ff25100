"""Which layers are swapped for ours of 8-bit floats, what they compute, and that undoing gives the very same back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.workers.packed.packed_families import tiny_model

pytest.importorskip("torchao")

from torchao.quantization import Float8Tensor, PerRow, PerTensor
from torchao.quantization.quantize_.workflows.float8.float8_tensor import QuantizeTensorToFloat8Kwargs

from parquetry.workers.fusing.fp8_linear import (
    Fp8Linear,
    fp8_linear,
    has_fp8_layers,
    has_fp8_weight,
    quantized_rows,
    swap_fp8_layers,
)
from parquetry.workers.fusing.merged_projections import MergedProjection, MergedScaledLinear, merge_projections

NUMBERS = torch.tensor([[1.0, -2.0, 448.0, 0.0], [0.5, 0.0, 0.0, -0.25], [0.0, 0.0, 0.0, 0.0]])


def quantize(linear: nn.Linear, granularity: Any = None, dynamic: bool = True) -> nn.Linear:
    """As torchao's config does it on a card; on a CPU it refuses to."""
    granularity = granularity or PerRow()
    kwargs = QuantizeTensorToFloat8Kwargs(granularity=granularity) if dynamic else None
    weight = Float8Tensor.from_hp(linear.weight, granularity=granularity, act_quant_kwargs=kwargs)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def linear(inputs: int = 64, outputs: int = 48, **options: Any) -> nn.Linear:
    torch.manual_seed(0)
    return quantize(nn.Linear(inputs, outputs, dtype=torch.bfloat16), **options)


def model_of(family: str = "llama") -> nn.Module:
    model = tiny_model(family).to(torch.bfloat16)
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name != "lm_head":
            quantize(module)
    return model


def test_rows_are_scaled_to_the_largest_number() -> None:
    """448 is the largest; 0.5 / 448 is the second row's scale, and a row of nothing stays one."""
    rows, scale = quantized_rows(NUMBERS)
    assert scale.flatten().tolist() == pytest.approx([1.0, 0.5 / 448, 1e-12])
    assert rows.float().tolist() == [[1.0, -2.0, 448.0, 0.0], [448.0, 0.0, 0.0, -224.0], [0.0] * 4]


def test_a_product_by_hand() -> None:
    """Two rows and two outputs: 2 * (1 * 2 + 2 * 3) * 0.5 = 8, and so on; the bias comes last."""
    x = torch.tensor([[1.0, 2.0], [4.0, 0.0]]).to(torch.float8_e4m3fn)
    weight = torch.tensor([[2.0, 3.0], [1.0, -1.0]]).to(torch.float8_e4m3fn)
    out = fp8_linear(
        x, torch.tensor([[2.0], [1.0]]), weight, torch.tensor([0.5, 4.0]), torch.tensor([1.0, 0.0]).bfloat16()
    )
    assert out.dtype == torch.bfloat16 and out.tolist() == [[9.0, -8.0], [5.0, 16.0]]


def test_only_rows_and_inputs_scaled_by_row_are_taken() -> None:
    assert has_fp8_weight(linear())
    assert not has_fp8_weight(linear(granularity=PerTensor()))
    assert not has_fp8_weight(linear(dynamic=False))
    assert not has_fp8_weight(nn.Linear(64, 48, dtype=torch.bfloat16))


def test_what_the_library_does_not_multiply_is_left_alone() -> None:
    assert not has_fp8_weight(linear(inputs=72)) and not has_fp8_weight(linear(outputs=50))
    hooked = linear()
    hooked.register_forward_hook(lambda *_: None)
    assert not has_fp8_weight(hooked)


def test_a_model_in_float16_is_left_alone() -> None:
    model = model_of()
    assert has_fp8_layers(model)
    model.config.dtype = model.model.embed_tokens.weight.data = model.model.embed_tokens.weight.data.half()
    assert not has_fp8_layers(model)


@torch.inference_mode()
def test_a_swapped_layer_computes_what_its_weights_and_rows_stand_for() -> None:
    plain = linear()
    ours, x = Fp8Linear(plain), torch.randn(2, 5, 64).bfloat16()
    rows, scale = quantized_rows(x)
    want = (rows.double() * scale.double()) @ plain.weight.dequantize().double().T + plain.bias.double()
    assert ours(x).shape == (2, 5, 48)
    torch.testing.assert_close(ours(x).double(), want, rtol=1e-2, atol=1e-2)


@torch.inference_mode()
def test_merged_projections_share_one_weight_and_are_put_back() -> None:
    model, ids = model_of(), torch.arange(3, 20)[None]
    before, swap = dict(model.named_modules()), swap_fp8_layers(model)
    attention = model.model.layers[0].self_attn
    want, values = model(ids).logits, attention.v_proj.weight.qdata.clone()
    merge = merge_projections(model)
    merged = attention.q_proj.owner[0]
    assert type(merged) is MergedScaledLinear and type(attention.v_proj) is MergedProjection
    assert merged.weight[48:].data_ptr() == before["model.layers.0.self_attn.v_proj"].weight.qdata.data_ptr()
    assert torch.equal(before["model.layers.0.self_attn.v_proj"].weight.qdata.float(), values.float())
    assert torch.equal(model(ids).logits, want)
    merge()
    swap()
    assert all(module is before[name] for name, module in model.named_modules())


def test_the_operator_is_one_that_compilers_may_take() -> None:
    x, scale = quantized_rows(torch.randn(2, 3, 32).bfloat16())
    weight, factors = quantized_rows(torch.randn(16, 32))
    given = (x, scale, weight, factors.flatten(), torch.randn(16).bfloat16())
    torch.library.opcheck(fp8_linear, given, test_utils="test_faketensor")
