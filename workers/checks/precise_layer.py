"""A layer one precision up: what its stock form would give if it did not round."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

#: the precision above each that weights come in
ABOVE = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float64}


def precise_layer(
    layer: nn.Module, dtype: torch.dtype, computed: torch.dtype, shared: tuple[object, ...] = ()
) -> nn.Module:
    """A copy of `layer`, whose own dtype is `computed`, in `dtype`; quantized linear layers keep their weights' values.

    What `shared` lists is referred to and not copied. Raises RuntimeError (out of memory among them), TypeError or
    NotImplementedError for a layer that cannot be copied so.
    """
    memo: dict[int, Any] = {id(thing): thing for thing in shared}
    for module in layer.modules():
        if is_quantized_linear(module):
            memo[id(module)] = plain_linear(module, dtype, computed)
    precise = copy.deepcopy(layer, memo).to(dtype)
    for module in precise.modules():
        config: Any = getattr(module, "config", None)
        # grouped products know half precision alone
        if getattr(config, "_experts_implementation", None) is not None:
            config._experts_implementation = "eager"
    return precise


def is_quantized_linear(module: nn.Module) -> bool:
    """Whether this is a linear layer over weights that are no plain floating-point tensor."""
    if not hasattr(module, "in_features") or not hasattr(module, "out_features"):
        return False
    weight = getattr(module, "weight", None)
    return type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.dtype.itemsize < 2


def plain_linear(module: Any, dtype: torch.dtype, computed: torch.dtype) -> nn.Linear:
    """The same values as plain weights, read off the layer itself by feeding it the identity in `computed`.

    Whatever the format: a product with one nonzero term does not round, and a row whose only number is 1 is quantized
    without an error.
    """
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    bias = getattr(module, "bias", None)
    plain = nn.Linear(module.in_features, module.out_features, bias is not None, device=device, dtype=dtype)
    with without_bias(module), torch.inference_mode(False), torch.no_grad():
        rows = module(torch.eye(module.in_features, dtype=computed, device=device))
    plain.weight.data = rows.to(dtype).t().contiguous()
    if bias is not None:
        plain.bias.data = bias.data.to(dtype)
    return plain.requires_grad_(False)


@contextmanager
def without_bias(module: Any) -> Iterator[None]:
    """A linear layer's products alone: a bias added in half precision would round them."""
    bias = getattr(module, "bias", None)
    if bias is not None:
        module.bias = None
    try:
        yield
    finally:
        if bias is not None:
            module.bias = bias
