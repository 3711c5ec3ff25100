"""A model whose linear layers multiply in 8 bits, as in ONNX Runtime's dynamic quantization: what that alone costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def in_eight_bits(model: nn.Module, weight_bits: int) -> Iterator[None]:
    """In here every linear layer rounds its weights to `weight_bits` by output, and what it is given to 8 by tensor."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    stock = [layer.weight.data for layer in layers]
    handles = [layer.register_forward_pre_hook(_round_input) for layer in layers]
    try:
        for layer in layers:
            layer.weight.data = rounded_weight(layer.weight.data, weight_bits)
        yield
    finally:
        for layer, weight in zip(layers, stock, strict=True):
            layer.weight.data = weight
        for handle in handles:
            handle.remove()


def _round_input(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (rounded_tensor(args[0]), *args[1:])


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """weight (num_outputs, num_inputs) in as many steps to either side of zero as `bits` hold, output by output."""
    steps = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / steps
    return (weight / scale).round() * scale


def rounded_tensor(values: Tensor) -> Tensor:
    """`values` in 255 steps from the least to the largest, zero among them."""
    low, high = values.amin().clamp_max(0.0), values.amax().clamp_min(0.0)
    scale = ((high - low) / 255).clamp_min(torch.finfo(values.dtype).tiny)
    return (values / scale).round() * scale
