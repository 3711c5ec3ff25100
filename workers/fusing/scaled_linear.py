"""Linear layers over weights of one byte with a scale per output, which stand where torchao's tensors stood."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ScaledLinear(nn.Module):
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

    @staticmethod
    @abstractmethod
    def multiply(x: Tensor, values: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x (..., inputs) times values (outputs, inputs) and their scales (outputs,), plus the bias: (..., outputs)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.values, self.scale, self.bias)


def merge_scaled(layers: Sequence[ScaledLinear]) -> tuple[Tensor, Tensor]:
    """Values and scales of all rows; those of the layers become views of them."""
    # bytes, for torch joins no 8-bit floats on some devices
    values = torch.cat([layer.values.view(torch.uint8) for layer in layers]).view(layers[0].values.dtype)
    scale = torch.cat([layer.scale for layer in layers])
    widths = [layer.out_features for layer in layers]
    for layer, rows, factors in zip(layers, values.split(widths), scale.split(widths), strict=True):
        layer.hold(rows, factors)
    return values, scale


def swap_layers(
    model: nn.Module, is_wanted: Callable[[nn.Module], bool], swapped: Callable[[Any], nn.Module]
) -> Callable[[], None]:
    """Swap all layers that are wanted, also those inside adapted ones; returns what puts them back."""
    parents = list(model.modules())
    children = [(parent, name, child) for parent in parents for name, child in parent.named_children()]
    replaced = [(parent, name, child) for parent, name, child in children if is_wanted(child)]
    for parent, name, layer in replaced:
        setattr(parent, name, swapped(layer))

    def put_back() -> None:
        for parent, name, layer in replaced:
            setattr(parent, name, layer)

    return put_back
