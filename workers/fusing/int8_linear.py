"""Linear layers over torchao's int8 weights, computed by our kernels as one opaque operator.

What torchao traces to, a product with the converted weight, a compiler turns into a kernel of one thread per output,
or into a bfloat16 copy of the weight in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

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


class Int8Linear(nn.Module):
    """Stands where a linear layer stood. Its values and scales are those inside torchao's tensor."""

    weight: Any
    values: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        # torchao's tensor: some model classes ask a layer's weight for its dtype
        self.weight = linear.weight
        self.bias = linear.bias
        self.register_buffer("values", self.weight.qdata, persistent=False)
        self.register_buffer("scale", self.weight.scale.flatten(), persistent=False)

    def hold(self, values: Tensor, scale: Tensor) -> None:
        """Let go of the values (outputs, inputs) and scales (outputs,) for these copies of them."""
        self.values, self.scale = values, scale
        self.weight.qdata, self.weight.scale = values, scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.parquetry.int8_linear(x, self.values, self.scale, self.bias)


def merge_int8(layers: list[Int8Linear]) -> tuple[Tensor, Tensor]:
    """Values and scales of all rows; those of the layers become views of them."""
    values = torch.cat([layer.values for layer in layers])
    scale = torch.cat([layer.scale for layer in layers])
    widths = [layer.out_features for layer in layers]
    for layer, rows, factors in zip(layers, values.split(widths), scale.split(widths), strict=True):
        layer.hold(rows, factors)
    return values, scale


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
    parents = list(model.modules())
    children = [(parent, name, child) for parent in parents for name, child in parent.named_children()]
    replaced = [(parent, name, child) for parent, name, child in children if has_int8_weight(child)]
    for parent, name, linear in replaced:
        setattr(parent, name, Int8Linear(linear))

    def put_back() -> None:
        for parent, name, linear in replaced:
            setattr(parent, name, linear)

    return put_back
