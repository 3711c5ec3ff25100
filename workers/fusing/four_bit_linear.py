"""Linear layers over weights of 4 bits, whose groups of inputs each have a scale and a zero point per output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parquetry.workers.fusing.four_bit_codes import BLOCK, pack_codes
from parquetry.workers.fusing.four_bit_product import dequantized

#: the zero point of weights that lie evenly around zero
MIDDLE = 8


@dataclass(frozen=True)
class FourBitWeights:
    """Codes as any format holds them: weight = (code - zero point) * scale, of its output and its input's group."""

    #: (outputs, inputs) uint8, below 16
    codes: Tensor
    #: (groups, outputs)
    scales: Tensor
    #: (groups, outputs) uint8, below 16; None where all are 8
    zeros: Tensor | None
    #: the group of each input, (inputs,); None where groups are runs of `group_size` inputs
    groups: Tensor | None
    #: -1 for one group of all inputs
    group_size: int


class FourBitLinear(nn.Module):
    """Stands where a linear layer stood."""

    packed: Tensor
    scales: Tensor
    zeros: Tensor | None
    order: Tensor | None
    bias: Tensor | None

    def __init__(self, weights: FourBitWeights, bias: Tensor | None, dtype: torch.dtype) -> None:
        """Raises ValueError for groups that no order of the inputs makes runs of."""
        super().__init__()
        self.out_features, self.in_features = weights.codes.shape
        size = self.in_features if weights.group_size == -1 else weights.group_size
        order = input_order(weights.groups, size)
        codes = weights.codes if order is None else weights.codes[:, order]
        zeros = None if weights.zeros is None or bool((weights.zeros == MIDDLE).all()) else weights.zeros
        codes, scales, zeros = filled(codes, weights.scales.to(dtype), zeros, size, is_one=weights.group_size == -1)
        self.group_size = codes.shape[1] // len(scales)
        self.register_buffer("packed", pack_codes(codes))
        self.register_buffer("scales", scales.contiguous())
        self.register_buffer("zeros", None if zeros is None else zeros.to(dtype).contiguous())
        self.register_buffer("order", order)
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    @property
    def weight(self) -> Tensor:
        """The weights (outputs, inputs), expanded anew: some model classes ask a layer's weight for its dtype."""
        expanded = dequantized(self.packed, self.scales, self.zeros, self.group_size, self.in_features)
        return expanded if self.order is None else expanded[:, self.order.argsort()]

    def forward(self, x: Tensor) -> Tensor:
        return multiply(x, self)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, group_size={self.group_size}"


def multiply(x: Tensor, layer: Any) -> Tensor:
    """x (..., inputs) through a layer with the tensors of a `FourBitLinear`; returns (..., outputs)."""
    ordered = x if layer.order is None else x.index_select(-1, layer.order)
    y = torch.ops.parquetry.four_bit_product(ordered, layer.packed, layer.scales, layer.zeros, layer.group_size)
    return y if layer.bias is None else y + layer.bias


def input_order(groups: Tensor | None, size: int) -> Tensor | None:
    """The order of inputs (inputs,) that makes runs of `size` of their groups (inputs,); None where they are runs.

    Raises ValueError where no order does.
    """
    if groups is None:
        return None
    runs = torch.arange(len(groups), device=groups.device) // size
    if torch.equal(groups.long(), runs):
        return None
    order = groups.argsort(stable=True)
    if not torch.equal(groups[order].long(), runs):
        raise ValueError(f"its inputs are in groups that do not all have {size} of them")
    return order


def filled(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, size: int, *, is_one: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes, scales and zero points with inputs up to whole blocks and whole groups, whose weights are zero.

    `is_one`: one group takes in all inputs, however many there are.
    """
    unit = BLOCK if is_one else math.lcm(BLOCK, size)
    lacking = -codes.shape[1] % unit
    last = torch.full_like(codes[:, :1], MIDDLE) if zeros is None else zeros[-1:].t()
    codes = torch.cat([codes, last.to(codes.dtype).expand(-1, lacking)], 1)
    more = 0 if is_one else codes.shape[1] // size - len(scales)
    scales = F.pad(scales, (0, 0, 0, more))
    zeros = None if zeros is None else torch.cat([zeros, zeros[-1:].expand(more, -1)])
    return codes, scales, zeros


def are_alike(layers: list[FourBitLinear]) -> bool:
    """Whether layers over one input have it in the same order and groups, so that one product can compute them all."""
    first = layers[0]
    kinds = {
        (x.in_features, x.group_size, x.zeros is None, x.bias is None, x.scales.dtype, x.packed.device) for x in layers
    }
    return len(kinds) == 1 and all(is_same_order(first.order, layer.order) for layer in layers)


def is_same_order(first: Tensor | None, second: Tensor | None) -> bool:
    """Whether two layers read the inputs in one order."""
    if first is None or second is None:
        return first is second
    return torch.equal(first, second)


def merge_four_bit(layers: Sequence[FourBitLinear], name: str, dim: int) -> Tensor | None:
    """One tensor of all layers' outputs, which lie along `dim`; those of the layers become views of it."""
    parts = [getattr(layer, name) for layer in layers]
    if parts[0] is None:
        return None
    merged = torch.cat(parts, dim)
    views = merged.split([layer.out_features for layer in layers], dim)
    for layer, view in zip(layers, views, strict=True):
        setattr(layer, name, view)
    return merged
