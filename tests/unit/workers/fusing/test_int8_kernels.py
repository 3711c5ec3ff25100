"""The int8 kernels against float64: on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.workers.fusing.triton_device import require_triton

DEVICE = require_triton()

from parquetry.workers.fusing.int8_kernels import MAX_ROWS, choose_launch, choose_num_splits, dequantize  # noqa: E402
from parquetry.workers.fusing.int8_linear import int8_linear  # noqa: E402
from parquetry.workers.packed.checks.sharing_check import relative_error  # noqa: E402

#: the interpreter computes with numpy, which warns of what kernels do on purpose
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}:triton.runtime.interpreter")
    for kind in ("DeprecationWarning", "RuntimeWarning")
]
# cuBLAS has one, and it is not what is tested here
pytestmark.append(pytest.mark.filterwarnings("ignore:.*[Dd]eterministic:UserWarning"))
#: relative errors that rounding explains
HALVES = {torch.bfloat16: 4e-3, torch.float16: 5e-4}
if DEVICE == "cpu":
    # the interpreter keeps bfloat16 as integers, multiplies those, and cuts where a card rounds
    del HALVES[torch.bfloat16]
HALF = next(iter(HALVES))


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.ones(1, device=DEVICE).new_empty(1000).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def make(num_rows: int, num_outputs: int, num_inputs: int, dtype: torch.dtype, *, seed: int = 0) -> list[Tensor]:
    """x, an int8 weight that uses its whole range, scales that differ a lot, and a bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, num_inputs, generator=generator).to(dtype)
    weight = torch.randint(-128, 128, (num_outputs, num_inputs), generator=generator).to(torch.int8)
    scale = torch.rand(num_outputs, generator=generator) * 0.02 + 1e-4
    bias = torch.randn(num_outputs, generator=generator).to(dtype)
    return [part.to(DEVICE) for part in (x, weight, scale, bias)]


def error_of(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> float:
    """How far the operator is from the same product in float64."""
    want = x.double() @ (weight.double() * scale.double()[:, None]).T
    want = want if bias is None else want + bias.double()
    got = int8_linear(x, weight, scale, bias)
    assert got.dtype == x.dtype and got.shape == want.shape
    return relative_error(got, want)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_rows=st.integers(1, 300),
    num_outputs=st.integers(1, 300),
    num_inputs=st.integers(1, 400),
    has_bias=st.booleans(),
    dtype=st.sampled_from(list(HALVES)),
    seed=st.integers(0, 1000),
)
def test_any_shape_equals_float64(
    num_rows: int, num_outputs: int, num_inputs: int, has_bias: bool, dtype: torch.dtype, seed: int
) -> None:
    x, weight, scale, bias = make(num_rows, num_outputs, num_inputs, dtype, seed=seed)
    assert error_of(x, weight, scale, bias if has_bias else None) < HALVES[dtype]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("num_rows", [1, 16, 17, 33, 65, 129, 256, 257])
def test_every_launch_equals_float64_with_shared_inputs(num_rows: int, dtype: torch.dtype) -> None:
    """1,100 inputs in two shares, the last tile of them ragged."""
    assert choose_num_splits(4, 1100) == 2
    for bias in (True, False):
        x, weight, scale, shift = make(num_rows, 200, 1100, dtype)
        assert error_of(x, weight, scale, shift if bias else None) < HALVES[dtype]


def test_shares_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.fusing.int8_kernels.MIN_SHARE", 1)
    x, weight, scale, bias = make(3, 70, 5 * 128 + 1, HALF)
    assert choose_num_splits(2, weight.shape[1]) == 8
    assert error_of(x, weight, scale, bias) < HALVES[HALF]


def test_inputs_need_not_be_contiguous_or_flat() -> None:
    x, weight, scale, bias = make(12, 40, 96, HALF)
    wide = torch.randn(2, 6, 192, device=DEVICE).to(HALF)
    wide[..., ::2] = x.view(2, 6, 96)
    assert torch.equal(
        int8_linear(wide[..., ::2], weight, scale, bias).view(12, 40), int8_linear(x, weight, scale, bias)
    )


@pytest.mark.parametrize("num_rows", [2, MAX_ROWS + 1])
def test_a_row_does_not_depend_on_its_neighbours(num_rows: int) -> None:
    x, weight, scale, bias = make(num_rows, 64, 1024, HALF)
    want = int8_linear(x, weight, scale, bias)
    x[1:] = float("nan")
    assert torch.equal(int8_linear(x, weight, scale, bias)[0], want[0])


@pytest.mark.parametrize("dtype", HALVES)
def test_converted_weights_are_rounded_once(dtype: torch.dtype) -> None:
    _, weight, scale, _ = make(1, 50, 2049, dtype)
    assert torch.equal(dequantize(weight, scale, dtype), (weight * scale[:, None]).to(dtype))


def test_float16_does_not_overflow_before_it_is_scaled() -> None:
    x, weight, scale, bias = make(MAX_ROWS + 1, 32, 1024, torch.float16)
    for rows in (x, x[:4]):
        assert int8_linear((rows.abs() + 1) * 4, weight.abs().clamp(max=127), scale * 0.1, bias).isfinite().all()


def test_float32_goes_through_the_converted_weight() -> None:
    x, weight, scale, bias = make(5, 48, 100, torch.float32)
    assert error_of(x, weight, scale, bias) < 1e-5
    assert torch.equal(dequantize(weight, scale, torch.float32), weight * scale[:, None])


def test_launches_depend_on_shapes_alone() -> None:
    assert [choose_launch(rows).rows for rows in (1, 16, 17, 64, 65, 256)] == [16, 16, 32, 64, 128, 128]
    # q, k and v of a 7B model, its MLP's way back, and one that fills the card as it is
    assert [choose_num_splits(*shape) for shape in ((96, 4096), (64, 14336), (448, 4096))] == [2, 4, 1]
    assert choose_num_splits(9, 576) == 1


def test_the_operator_is_sound() -> None:
    """Its schema, and that the compiler is told the shape it returns."""
    x, weight, scale, bias = make(6, 24, 48, HALF)
    for shape, shift in (((6, 48), bias), ((2, 3, 48), None)):
        torch.library.opcheck(int8_linear, (x.view(shape), weight, scale, shift))
