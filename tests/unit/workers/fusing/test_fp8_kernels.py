"""The kernel over 8-bit floats against float64: on a CUDA device, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.workers.fusing.triton_device import require_triton

DEVICE = require_triton()

from parquetry.workers.fusing.fp8_kernels import LAUNCHES, fp8_product  # noqa: E402
from parquetry.workers.fusing.fp8_linear import quantized_rows  # noqa: E402
from parquetry.workers.fusing.input_parts import _locks  # noqa: E402
from parquetry.workers.packed.checks.sharing_check import relative_error  # noqa: E402

#: the interpreter computes with numpy, which warns of what kernels do on purpose
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}:triton.runtime.interpreter")
    for kind in ("DeprecationWarning", "RuntimeWarning")
]
# the interpreter cuts bfloat16 off where a card rounds
LIMIT = 4e-3 if DEVICE == "cuda" else 8e-3


def make(num_rows: int, num_outputs: int, num_inputs: int) -> tuple[list[Tensor], Tensor]:
    """Rows, weights and their scales, and the product in float64."""
    torch.manual_seed(0)
    x, x_scale = quantized_rows(torch.randn(num_rows, num_inputs))
    weight, scale = quantized_rows(torch.randn(num_outputs, num_inputs) * 0.02)
    want = (x.double() * x_scale.double()) @ (weight.double() * scale.double()).T
    return [part.to(DEVICE) for part in (x, x_scale, weight, scale.flatten())], want.to(DEVICE)


@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(72, 272), (200, 4112), (16, 16)])
@pytest.mark.parametrize("launch", LAUNCHES)
def test_every_launch_equals_float64(launch: object, num_outputs: int, num_inputs: int) -> None:
    for num_rows in (1, launch.rows, launch.rows + 1):
        given, want = make(num_rows, num_outputs, num_inputs)
        got = fp8_product(*given, launch)
        assert got.dtype == torch.bfloat16 and got.shape == want.shape
        assert relative_error(got, want) < LIMIT
    assert all(not locks.any() for locks in _locks.values())


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    given, _ = make(9, 64, 2048)
    want = fp8_product(*given)
    given[0][1:], given[1][1:] = 448.0, 1e6
    assert torch.equal(fp8_product(*given)[0], want[0])
