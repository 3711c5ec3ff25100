"""Plain layers in the place of those over weights of 4 bits, which peft does not know, while it reads an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from parquetry.workers.fusing.four_bit_linear import FourBitLinear


@contextmanager
def standing_in(model: nn.Module) -> Iterator[None]:
    """Layers of the same sizes, device and dtype stand where those over 4 bits were; these come back at the end."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, FourBitLinear)}
    for name, layer in layers.items():
        model.set_submodule(name, stand_in(layer))
    try:
        yield
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)


def stand_in(layer: FourBitLinear) -> nn.Linear:
    """A linear layer whose weights are one zero in memory: nothing computes with it."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    zero = layer.scales.new_zeros(1, 1)
    linear.weight = nn.Parameter(zero.expand(layer.out_features, layer.in_features), requires_grad=False)
    return linear
