"""Fewer, larger kernels for the encoder block on a GPU: one product for q, k and v, GELU inside the product."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUActivation, NewGELUActivation

_GELUS = (GELUActivation, NewGELUActivation, nn.GELU)
#: attributes that hold q, k and v, called in this order: BERT and its kin; DistilBERT
_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"))
#: attributes that hold a product and the activation behind it: BERT and its kin; DistilBERT; ALBERT
PRODUCTS = (("dense", "intermediate_act_fn"), ("lin1", "activation"), ("ffn", "activation"))


# opaque, so that the compiler does not take the product and its activation apart again
@torch.library.custom_op("parquetry::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (..., in), weight (out, in), bias (out,); GELU(x @ weight.T + bias) with GELU in the product's epilogue.

    On a GPU the epilogue computes GELU's tanh form, which is off by at most 5e-4: less than half precision keeps.
    """
    out = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
    return out.view(*x.shape[:-1], -1)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


class LinearGelu(nn.Module):
    """A linear layer and the GELU behind it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return linear_gelu(x, self.weight, self.bias)


class Query(nn.Module):
    """Computes q, k and v in one product; returns q and leaves the others for `Sibling`."""

    def __init__(self, query: nn.Linear, key: nn.Linear, value: nn.Linear) -> None:
        super().__init__()
        parts = (query, key, value)
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        self.left: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = nn.functional.linear(x, self.weight, self.bias).chunk(3, dim=-1)
        self.left = [v, k]
        return q


class Sibling(nn.Module):
    """What `Query` left; asked for in the order k, v."""

    def __init__(self, query: Query) -> None:
        super().__init__()
        # not a child: its parameters are the query's
        self._query = (query,)

    def forward(self, x: Tensor) -> Tensor:
        return self._query[0].left.pop()


def fuse(model: PreTrainedModel) -> int:
    """Replace what can be, in place; returns how many modules were."""
    return sum(_fuse_module(module) for module in list(model.modules()))


def _fuse_module(module: nn.Module) -> int:
    projections = (_fuse_projections(module, names) for names in _PROJECTIONS)
    products = (_fuse_gelu(module, *names) for names in PRODUCTS)
    return sum(projections) + sum(products)


def _fuse_projections(module: nn.Module, names: tuple[str, str, str]) -> bool:
    layers = [layer for name in names if _is_plain(layer := getattr(module, name, None))]
    if len(layers) < len(names):
        return False
    query = Query(*layers)
    for name, layer in zip(names, (query, Sibling(query), Sibling(query)), strict=True):
        setattr(module, name, layer)
    return True


def _fuse_gelu(module: nn.Module, linear: str, activation: str) -> bool:
    product, function = getattr(module, linear, None), getattr(module, activation, None)
    if not _is_plain(product) or not isinstance(function, _GELUS):
        return False
    setattr(module, linear, LinearGelu(product))
    setattr(module, activation, nn.Identity())
    return True


def _is_plain(module: nn.Module | None) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and module.bias is not None
