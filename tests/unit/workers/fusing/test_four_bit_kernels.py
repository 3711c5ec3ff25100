"""Kernels over four bits against float64: on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.workers.fusing.triton_device import require_triton

DEVICE = require_triton()

from parquetry.workers.fusing.four_bit_kernels import FEW, MANY, dequantize, fits, fused_product  # noqa: E402
from parquetry.workers.fusing.four_bit_linear import FourBitLinear, FourBitWeights  # noqa: E402
from parquetry.workers.fusing.input_parts import _locks, choose_parts  # noqa: E402
from parquetry.workers.packed.checks.sharing_check import relative_error  # noqa: E402

#: the interpreter computes with numpy, which warns of what kernels do on purpose
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}:triton.runtime.interpreter")
    for kind in ("DeprecationWarning", "RuntimeWarning")
]
#: relative errors that rounding explains
HALVES = {torch.bfloat16: 4e-3, torch.float16: 5e-4}
if DEVICE == "cpu":
    # the interpreter keeps bfloat16 as integers and multiplies those
    del HALVES[torch.bfloat16]
HALF = next(iter(HALVES))


def packed(codes: Tensor) -> Tensor:
    """Codes (outputs, inputs) as words: word t of 64 inputs holds those of inputs 16i + 2t, and 16 bits up the next."""
    blocks = codes.view(len(codes), -1, 4, 8, 2).int()
    words = torch.zeros(len(codes), blocks.shape[1], 8, dtype=torch.int32, device=codes.device)
    for i in range(4):
        for half in range(2):
            words |= blocks[:, :, i, :, half] << (4 * i + 16 * half)
    return words.view(len(codes), -1)


def make(
    num_outputs: int, num_inputs: int, group: int, dtype: torch.dtype, *, has_zeros: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Weights in float64, and their words, scales and zeros."""
    torch.manual_seed(seed)
    codes = torch.randint(0, 16, (num_outputs, num_inputs))
    num_groups = -(-num_inputs // group)
    scales = (torch.rand(num_groups, num_outputs) * 0.1 + 0.01).to(dtype)
    zeros = torch.randint(0, 16, (num_groups, num_outputs)).to(dtype) if has_zeros else torch.full_like(scales, 8)
    of = torch.arange(num_inputs) // group
    weights = (codes - zeros.double()[of].T) * scales.double()[of].T
    given = packed(codes), scales, zeros if has_zeros else None
    return weights.to(DEVICE), *(None if part is None else part.to(DEVICE) for part in given)  # type: ignore[return-value]


def test_a_word_by_hand() -> None:
    """Code 15 of input 2 is in the lowest bits of word 1; that of input 3, 16 bits further up; that of 18, 4 bits."""
    codes = torch.zeros(1, 64, dtype=torch.int32)
    codes[0, 2], codes[0, 3], codes[0, 18] = 15, 1, 2
    words = packed(codes)
    assert words[0].tolist() == [0, 15 + (1 << 16) + (2 << 4), 0, 0, 0, 0, 0, 0]
    scales = torch.full((1, 1), 0.5, dtype=HALF)
    weights = dequantize(words.to(DEVICE), scales.to(DEVICE), None, 64, 64)[0].tolist()
    assert [weights[k] for k in (0, 2, 3, 18)] == [-4.0, 3.5, -3.5, -3.0]


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(1, 130),
    num_outputs=st.integers(1, 150),
    blocks=st.integers(1, 12),
    group=st.sampled_from([16, 32, 64, 128, 256, 4096]),
    has_zeros=st.booleans(),
    dtype=st.sampled_from(list(HALVES)),
)
def test_any_shape_equals_float64(
    num_rows: int, num_outputs: int, blocks: int, group: int, has_zeros: bool, dtype: torch.dtype
) -> None:
    num_inputs = 64 * blocks
    assert fits(group, num_inputs)
    weights, *layer = make(num_outputs, num_inputs, group, dtype, has_zeros=has_zeros)
    x = torch.randn(num_rows, num_inputs).to(dtype).to(DEVICE)
    got = fused_product(x, *layer, group)
    assert got.shape == (num_rows, num_outputs) and got.dtype == dtype
    assert relative_error(got, x.double() @ weights.T) < HALVES[dtype]


@pytest.mark.parametrize("launch", {*FEW, *MANY})
@pytest.mark.parametrize("dtype", HALVES)
def test_every_launch_equals_float64_in_parts(launch: object, dtype: torch.dtype) -> None:
    weights, *layer = make(136, 2048 + 64, 64, dtype)
    x = torch.randn(launch.rows + 3, 2048 + 64).to(dtype).to(DEVICE)
    assert relative_error(fused_product(x, *layer, 64, launch), x.double() @ weights.T) < HALVES[dtype]
    assert all(not locks.any() for locks in _locks.values())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("group", [16, 32, 64, 128, 192])
def test_unpacked_weights_are_rounded_once(group: int, dtype: torch.dtype) -> None:
    weights, *layer = make(50, 192, group, dtype)
    assert torch.equal(dequantize(*layer, group, 192), weights.to(dtype))


def test_inputs_that_fill_no_block_are_left_out() -> None:
    """72 inputs in two blocks: the codes behind them are zeros that count for nothing."""
    weights, *layer = make(40, 128, 128, HALF)
    x = torch.randn(5, 72).to(HALF).to(DEVICE)
    assert relative_error(fused_product(x, *layer, 128), x.double() @ weights[:, :72].T) < HALVES[HALF]
    assert dequantize(*layer, 128, 72).shape == (40, 72)


@pytest.mark.parametrize("num_rows", [3, 70])
def test_a_row_does_not_depend_on_its_neighbours(num_rows: int) -> None:
    _, *layer = make(64, 1024, 128, HALF)
    x = torch.randn(num_rows, 1024).to(HALF).to(DEVICE)
    want = fused_product(x, *layer, 128)
    x[1:] = float("nan")
    assert torch.equal(fused_product(x, *layer, 128)[0], want[0])


@pytest.mark.parametrize(
    ("num_tiles", "num_steps", "num_programs", "parts"),
    [(64, 32, 528, 8), (448, 32, 528, 1), (1, 32, 528, 8), (1, 7, 528, 1), (33, 200, 132, 4)],
)
def test_parts_fill_the_card_while_they_are_worth_it(
    num_tiles: int, num_steps: int, num_programs: int, parts: int
) -> None:
    assert choose_parts(num_tiles, num_steps, num_programs) == parts


def test_groups_that_lie_across_tiles_are_not_served() -> None:
    assert not fits(48, 4096) and not fits(96, 4096) and fits(4096, 4096) and fits(128, 4096)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("num_inputs", "group"), [(192, 64), (72, 16), (100, -1), (200, 128)])
def test_layers_are_packed_as_the_kernels_read_them(num_inputs: int, group: int, dtype: torch.dtype) -> None:
    codes = torch.randint(16, (40, num_inputs), dtype=torch.uint8)
    num_groups = 1 if group == -1 else -(-num_inputs // group)
    scales, zeros = torch.rand(num_groups, 40), torch.randint(16, (num_groups, 40), dtype=torch.uint8)
    linear = FourBitLinear(FourBitWeights(codes, scales, zeros, None, group), None, dtype).to(DEVICE)
    layer = linear.packed, linear.scales, linear.zeros, linear.group_size
    assert fits(linear.group_size, 8 * linear.packed.shape[1])
    assert torch.equal(dequantize(*layer, num_inputs), linear.weight)
    x = torch.randn(5, num_inputs).to(dtype).to(DEVICE)
    assert relative_error(fused_product(x, *layer), x.double() @ linear.weight.double().T) < HALVES[dtype]
