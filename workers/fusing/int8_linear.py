"""Linear layers over torchao's int8 weights, computed by our kernels as one opaque operator.

What torchao traces to, a product with the converted weight, a compiler turns into a kernel of one thread per output,
or into a bfloat16 copy of the weight in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from parquetry.workers.fusing.scaled_linear import ScaledLinear, swap_layers
from parquetry.workers.packages import is_installed


@torch.library.custom_op("parquetry::int8_linear", mutates_args=())
def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., inputs), weight (outputs, inputs) int8, scale (outputs,) float32, bias (outputs,): (..., outputs)."""
    # Importing the kernels imports Triton, which a CPU build of torch does not bring.
    from parquetry.workers.fusing.int8_kernels import int8_matmul

    rows = x.reshape(-1, x.shape[-1]).contiguous()
    return int8_matmul(rows, weight, scale, bias).view(*x.shape[:-1], weight.shape[0])


@int8_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class Int8Linear(ScaledLinear):
    """Stands where a linear layer over int8 weights stood."""

    @staticmethod
    def multiply(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.parquetry.int8_linear(x, values, scale, bias)


def has_int8_weight(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a plain linear layer but for torchao's int8 weight, each output of which has one scale."""
    if type(module) is not nn.Linear or module._forward_hooks or module._forward_pre_hooks:
        return False
    return type(module.weight) is not nn.Parameter and is_installed("torchao") and is_scaled_by_row(module.weight)


def has_int8_layers(model: nn.Module) -> bool:
    """Whether `swap_int8_layers` would find any."""
    return any(has_int8_weight(module) for module in model.modules())


def is_scaled_by_row(weight: Any) -> bool:
    """Whether a weight is int8 and a scale per row, around zero; inputs are not quantized or scaled."""
    from torchao.quantization import Int8Tensor

    if type(weight) is not Int8Tensor or weight.act_quant_kwargs is not None or weight.act_pre_scale is not None:
        return False
    is_symmetric = weight.zero_point is None or not bool(weight.zero_point.any())
    return is_symmetric and list(weight.block_size) == [1, weight.shape[1]] and weight.qdata.is_contiguous()


def swap_int8_layers(model: nn.Module) -> Callable[[], None]:
    """Swap linear layers over int8 weights, also those inside adapted ones; returns what puts them back."""
    return swap_layers(model, has_int8_weight, Int8Linear)
