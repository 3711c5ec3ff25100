"""torch.compile for the decoder layers, one compiled layer for all of a kind, and for what stands around them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import nn

from workers.packed.kv_cache import LayerShape
from workers.packed.residual import with_sum_in_product

log = logging.getLogger(__name__)


def decoder_layers(model: nn.Module, layers: Sequence[LayerShape]) -> list[nn.Module]:
    """The modules of the one ModuleList whose members each hold one of the attention layers, or nothing."""
    attention = {id(layer.module) for layer in layers}
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(layers):
            owned = [sum(id(m) in attention for m in layer.modules()) for layer in module]
            if all(count == 1 for count in owned):
                return list(module)
    return []


def around_layers(model: nn.Module, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules beside the list of `layers` that compute something: the last norm and the rotary embeddings."""
    for owner in model.modules():
        lists = [child for child in owner.children() if isinstance(child, nn.ModuleList)]
        if any(len(child) and child[0] is layers[0] for child in lists):
            return [child for child in owner.children() if not isinstance(child, (nn.ModuleList, nn.Embedding))]
    return []


def compile_layers(model: nn.Module, layers: Sequence[LayerShape], *, is_shared: bool = False) -> int:
    """Compile every decoder layer, the number of tokens left open; returns how many were."""
    found = decoder_layers(model, layers)
    for module in [*found, *(around_layers(model, found) if found else [])]:
        module.compile(dynamic=True, backend=compiler(is_shared=is_shared))
    return len(found)


@cache
def compiler(*, is_shared: bool) -> Callable[..., Any]:
    """Inductor as the layers want it; the same one every time, or they would be compiled anew.

    Kernels that do not depend on one another, such as those of queries and keys, become one. The ranks of a shared
    model compile each for itself, and must come to kernels that round alike: none is then chosen by a measurement.
    """
    return with_sum_in_product({"deterministic": True} if is_shared else {"combo_kernels": True})


def reset_layers(model: nn.Module, layers: Sequence[LayerShape]) -> None:
    """Run the layers as they came."""
    found = decoder_layers(model, layers)
    for module in [*found, *(around_layers(model, found) if found else [])]:
        module._compiled_call_impl = None
