"""Projections that read the same input run as one matrix product: q, k and v, and gate and up.

The weights of the parts become views of the merged weight, so nothing is held twice and a state dict stays as it was.
Layers over weights of 8 or 4 bits are merged in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parquetry.workers.fusing.four_bit_linear import FourBitLinear, are_alike, merge_four_bit, multiply
from parquetry.workers.fusing.fp8_linear import Fp8Linear
from parquetry.workers.fusing.int8_linear import Int8Linear
from parquetry.workers.fusing.scaled_linear import ScaledLinear, merge_scaled

#: names of projections that stock attention and MLP classes give one input
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


Mergeable = nn.Linear | ScaledLinear | FourBitLinear


class MergedLinear(nn.Module):
    """Several linear layers over one input, which is what stock attention and MLP classes give them."""

    def __init__(self, layers: Sequence[Mergeable]) -> None:
        super().__init__()
        self.widths = [layer.out_features for layer in layers]
        self.merge_weights(layers)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = merge_parameters(biases) if biases else None
        self.outputs: list[Tensor] = []

    def merge_weights(self, layers: Sequence[Any]) -> None:
        """Take the rows of every layer."""
        self.weight = merge_parameters([layer.weight for layer in layers])

    def multiply(self, x: Tensor) -> Tensor:
        """The outputs of all layers, side by side."""
        return F.linear(x, self.weight, self.bias)

    def compute(self, x: Tensor) -> None:
        """Compute every layer's output; each is taken once."""
        self.outputs = list(self.multiply(x).split(self.widths, -1))


class MergedScaledLinear(MergedLinear):
    """Several layers of one kind over weights of one byte and one input."""

    def merge_weights(self, layers: Sequence[Any]) -> None:
        self.weight, self.scale = merge_scaled(layers)
        self.product = layers[0].multiply

    def multiply(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.scale, self.bias)


class MergedFourBitLinear(MergedLinear):
    """Several layers over weights of 4 bits and one input, which they read in the same order."""

    def merge_weights(self, layers: Sequence[Any]) -> None:
        self.group_size, self.order = layers[0].group_size, layers[0].order
        self.packed = merge_four_bit(layers, "packed", 0)
        self.scales = merge_four_bit(layers, "scales", 1)
        self.zeros = merge_four_bit(layers, "zeros", 1)

    def multiply(self, x: Tensor) -> Tensor:
        return multiply(x, self)


#: the kind of a layer -> what merges several
MERGED: dict[type[nn.Module], type[MergedLinear]] = {
    nn.Linear: MergedLinear,
    Int8Linear: MergedScaledLinear,
    Fp8Linear: MergedScaledLinear,
    FourBitLinear: MergedFourBitLinear,
}


class MergedProjection(nn.Module):
    """Stands where one of the linear layers stood. The first one computes, the last one lets go of the results."""

    def __init__(self, merged: MergedLinear, index: int) -> None:
        super().__init__()
        self.index = index
        self.is_last = index == len(merged.widths) - 1
        # In a list, so that the merged weight is not registered once per part.
        self.owner = [merged]

    def forward(self, x: Tensor) -> Tensor:
        merged = self.owner[0]
        if self.index == 0:
            merged.compute(x)
        output = merged.outputs[self.index]
        if self.is_last:
            merged.outputs = []
        return output


def merge_parameters(parameters: Sequence[Tensor]) -> Tensor:
    """One tensor of all rows; the parameters become views of it."""
    merged = torch.cat([parameter.data for parameter in parameters])
    for parameter, rows in zip(parameters, merged.split([len(p) for p in parameters]), strict=True):
        parameter.data = rows
    return merged


def can_merge(layers: list[Any]) -> TypeGuard[list[Mergeable]]:
    """Half-precision linear layers of one kind, or of 8 or 4 bits: any other is a class of its own, or its weight."""
    if any(type(x) not in MERGED or x._forward_hooks or x._forward_pre_hooks for x in layers):
        return False
    if any(type(layer) is FourBitLinear for layer in layers):
        return all(type(layer) is FourBitLinear for layer in layers) and are_alike(layers)
    # torchao keeps the layer's class and quantizes by the type of its weight
    if any(type(layer) is nn.Linear and type(layer.weight) is not nn.Parameter for layer in layers):
        return False
    kinds = {(type(x), x.in_features, x.bias is None, x.weight.dtype, x.weight.device) for x in layers}
    return len(kinds) == 1 and layers[0].weight.dtype in (torch.float16, torch.bfloat16)


def merge_projections(model: nn.Module) -> Callable[[], None]:
    """Merge what can be merged, in place; returns the function that puts the linear layers back."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        for names in SIBLINGS:
            layers = [getattr(module, name, None) for name in names]
            if not can_merge(layers):
                continue
            merged = MERGED[type(layers[0])](layers)
            for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
                replaced.append((module, name, layer))
                setattr(module, name, MergedProjection(merged, index))

    def put_back() -> None:
        for module, name, layer in replaced:
            setattr(module, name, layer)

    return put_back
