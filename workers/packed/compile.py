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


def compile_layers(model: nn.Module, layers: Sequence[LayerShape]) -> int:
    """Compile every decoder layer, the number of tokens left open; returns how many were."""
    found = decoder_layers(model, layers)
    for layer in found:
        layer.compile(dynamic=True)
    return len(found)


def reset_layers(model: nn.Module, layers: Sequence[LayerShape]) -> None:
    """Run the layers as they came."""
    for layer in decoder_layers(model, layers):
        layer._compiled_call_impl = None
