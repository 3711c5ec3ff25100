"""torch.compile for the decoder layers: one compiled layer serves all of a kind."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from workers.packed.kv_cache import LayerShape

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


def compile_layers(model: nn.Module, layers: Sequence[LayerShape], *, is_shared: bool = False) -> int:
    """Compile every decoder layer, the number of tokens left open; returns how many were.

    The ranks of a shared model compile each for itself, and must come to kernels that round alike: none is then chosen
    by a measurement.
    """
    found = decoder_layers(model, layers)
    for layer in found:
        layer.compile(dynamic=True, options={"deterministic": True} if is_shared else None)
    return len(found)


def reset_layers(model: nn.Module, layers: Sequence[LayerShape]) -> None:
    """Run the layers as they came."""
    for layer in decoder_layers(model, layers):
        layer._compiled_call_impl = None
