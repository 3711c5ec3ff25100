"""Weights of 4 bits: the words that kernels read, the product, and layers of them that are merged."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from parquetry.workers.fusing import four_bit_product as product
from parquetry.workers.fusing.four_bit_codes import pack_codes, unpack_codes
from parquetry.workers.fusing.four_bit_linear import FourBitLinear, FourBitWeights, filled, input_order
from parquetry.workers.fusing.merged_projections import MergedFourBitLinear, MergedProjection, merge_projections
from tests.unit.workers.packed.packed_families import tiny_model


def weights(
    num_outputs: int, num_inputs: int, size: int, *, even: bool = False, mixed: int | None = None, seed: int = 0
) -> FourBitWeights:
    """Random ones; `even` around zero, `mixed` with inputs in groups by a permutation of that seed."""
    random = torch.Generator().manual_seed(seed)
    num_groups = 1 if size == -1 else -(-num_inputs // size)
    codes = torch.randint(16, (num_outputs, num_inputs), generator=random, dtype=torch.uint8)
    scales = torch.rand(num_groups, num_outputs, generator=random) / 8 + 0.01
    zeros = torch.randint(16, (num_groups, num_outputs), generator=random, dtype=torch.uint8)
    groups = None
    if mixed is not None:
        shuffled = torch.randperm(num_inputs, generator=torch.Generator().manual_seed(mixed))
        groups = (torch.arange(num_inputs) // size)[shuffled].int()
    return FourBitWeights(codes, scales, torch.full_like(zeros, 8) if even else zeros, groups, size)


def expanded(given: FourBitWeights, dtype: torch.dtype) -> torch.Tensor:
    """(outputs, inputs), one by one."""
    num_outputs, num_inputs = given.codes.shape
    size = num_inputs if given.group_size == -1 else given.group_size
    scales, out = given.scales.to(dtype), torch.empty(num_outputs, num_inputs, dtype=dtype)
    for k in range(num_inputs):
        group = k // size if given.groups is None else int(given.groups[k])
        out[:, k] = (given.codes[:, k].to(dtype) - given.zeros[group].to(dtype)) * scales[group]
    return out


def test_a_word_holds_pairs_of_inputs_16_apart() -> None:
    codes = torch.randint(16, (3, 192), dtype=torch.uint8)
    packed = pack_codes(codes)
    assert packed.shape == (3, 24) and packed.dtype == torch.int32
    for row, block, t, i in [(0, 0, 0, 0), (1, 0, 5, 3), (2, 1, 7, 3), (0, 2, 0, 2), (2, 2, 7, 1)]:
        word, k = int(packed[row, 8 * block + t]) & 0xFFFFFFFF, 64 * block + 16 * i + 2 * t
        assert word >> (4 * i) & 15 == codes[row, k] and word >> (4 * i + 16) & 15 == codes[row, k + 1]
    assert torch.equal(unpack_codes(packed), codes)


def test_one_word_by_hand() -> None:
    """The lowest bits of word 1 are input 2's, those of input 3 are 16 further up, and of input 18 4."""
    codes = torch.zeros(1, 64, dtype=torch.uint8)
    codes[0, 2], codes[0, 3], codes[0, 18], codes[0, 51] = 0x5, 0xA, 0xF, 0xC
    assert pack_codes(codes)[0].tolist() == [0, 0xC00A00F5 - (1 << 32), 0, 0, 0, 0, 0, 0]


CASES = {
    "runs": {"size": 32},
    "even": {"size": 32, "even": True},
    "one group": {"size": -1},
    "mixed": {"size": 16, "mixed": 1},
    "larger than a block": {"size": 256},
    "last one short": {"size": 48},
    "last one short, mixed": {"size": 48, "mixed": 2},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_inputs", [256, 160, 24])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_its_weights_expanded(case: str, num_inputs: int, dtype: torch.dtype) -> None:
    given = weights(40, num_inputs, **CASES[case])
    layer, bias = FourBitLinear(given, torch.randn(40), dtype), torch.zeros(40)
    want = expanded(given, dtype)
    assert torch.equal(layer.weight, want) and (layer.zeros is None) == (case == "even")
    assert 8 * layer.packed.shape[1] % 64 == 0 and 8 * layer.packed.shape[1] % layer.group_size == 0
    assert len(layer.scales) == 8 * layer.packed.shape[1] // layer.group_size
    assert layer.scales.is_contiguous() and layer.scales.dtype == dtype
    x, bias = torch.randn(2, 5, num_inputs, dtype=dtype), layer.bias
    assert torch.allclose(layer(x), F.linear(x, want) + bias, rtol=2e-2, atol=2e-2)
    layer.bias = None
    assert torch.equal(layer(torch.eye(num_inputs, dtype=dtype)).t(), want)


def test_what_is_filled_up_is_zero_in_its_own_codes() -> None:
    given = weights(8, 100, 16)
    codes, scales, zeros = filled(given.codes, given.scales, given.zeros, 16, is_one=False)
    assert codes.shape == (8, 128) and scales.shape == zeros.shape == (8, 8)
    assert torch.equal(codes[:, 100:].t(), zeros[-1:].expand(28, -1))
    assert not scales[7:].any()
    whole, scales, _ = filled(given.codes[:, :64], given.scales[:1], None, 64, is_one=True)
    assert torch.equal(whole, given.codes[:, :64]) and scales.shape == (1, 8)


def test_groups_that_are_no_runs_are_sorted() -> None:
    groups = torch.tensor([1, 0, 0, 1, 2])
    assert input_order(groups, 2).tolist() == [1, 2, 0, 3, 4]
    assert input_order(torch.tensor([0, 0, 1, 1, 2]), 2) is None
    for bad in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 3], [-1, 0, 0, 1, 1]):
        with pytest.raises(ValueError, match="groups that do not all have 2"):
            input_order(torch.tensor(bad), 2)


def test_the_operator_is_sound() -> None:
    layer = FourBitLinear(weights(24, 160, 32), None, torch.float32)
    operands = (torch.randn(2, 3, 160), layer.packed, layer.scales, layer.zeros, layer.group_size)
    torch.library.opcheck(torch.ops.parquetry.four_bit_product.default, operands)
    torch.library.opcheck(
        torch.ops.parquetry.four_bit_product.default, (torch.randn(3, 160), layer.packed, layer.scales, None, 32)
    )


def test_layers_compile_whole() -> None:
    layer = FourBitLinear(weights(24, 160, 16, mixed=3), torch.randn(24), torch.float32)
    x = torch.randn(3, 160)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), layer(x), rtol=1e-5, atol=1e-5)


def test_without_triton_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    product._kernels.cache_clear()
    monkeypatch.setattr(product, "is_installed", lambda module: module != "triton")
    on_card = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)
    assert product.kernels_for(on_card, torch.zeros(4, 8), 64) is None
    product._kernels.cache_clear()


def four_bit_model(*, mixed: tuple[int, int, int] | None = None) -> nn.Module:
    """Qwen2, which has biases; `mixed` gives the order of the inputs of q, k and v."""
    model = tiny_model("qwen2").to(torch.bfloat16)
    for layer in model.model.layers:
        for parent, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj")), (layer.mlp, ("gate_proj", "up_proj"))):
            for seed, name in enumerate(names):
                linear = getattr(parent, name)
                order = mixed[seed] if mixed and len(names) == 3 else None
                given = weights(linear.out_features, linear.in_features, 16, mixed=order, seed=seed)
                bias = None if linear.bias is None else linear.bias.data
                setattr(parent, name, FourBitLinear(given, bias, torch.bfloat16))
    return model.eval()


@pytest.mark.parametrize("mixed", [None, (4, 4, 4)])
@torch.inference_mode()
def test_merged_projections_share_one_weight(mixed: tuple[int, int, int] | None) -> None:
    model, ids = four_bit_model(mixed=mixed), torch.arange(3, 20)[None]
    attention, want = model.model.layers[0].self_attn, model(ids).logits
    q_proj, v_proj, value = attention.q_proj, attention.v_proj, attention.v_proj.weight
    with ExitStack() as undo:
        undo.callback(merge_projections(model))
        merged = attention.q_proj.owner[0]
        assert type(merged) is MergedFourBitLinear and type(model.model.layers[0].mlp.up_proj) is MergedProjection
        assert merged.widths == [32, 16, 16] and merged.bias.shape == (64,) and merged.scales.is_contiguous()
        assert merged.packed[48:].data_ptr() == v_proj.packed.data_ptr()
        assert merged.scales[:, 48:].data_ptr() == v_proj.scales.data_ptr()
        assert torch.equal(v_proj.weight, value)
        assert torch.allclose(model(ids).logits, want, rtol=2e-2, atol=2e-2)
    assert attention.q_proj is q_proj
    assert torch.equal(model(ids).logits, want)


def test_layers_of_another_order_are_not_merged() -> None:
    for mixed in ((4, 4, 5), (4, 5, 4)):
        model = four_bit_model(mixed=mixed)
        merge_projections(model)
        assert type(model.model.layers[0].self_attn.q_proj) is FourBitLinear
    model = four_bit_model()
    attention = model.model.layers[0].self_attn
    attention.k_proj = FourBitLinear(weights(16, 32, 16, even=True), attention.k_proj.bias, torch.bfloat16)
    model.model.layers[0].mlp.up_proj = nn.Linear(32, 48, bias=False, dtype=torch.bfloat16)
    merge_projections(model)
    assert type(attention.q_proj) is FourBitLinear
    assert type(model.model.layers[0].mlp.gate_proj) is FourBitLinear
