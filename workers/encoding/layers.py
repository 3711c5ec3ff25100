"""The repeated layers of a model, compiled one by one: a compiled layer is compiled once and serves all of them."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks in order; [] when no list of num_hidden_layers modules is found."""
    count = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def compile_layers(model: PreTrainedModel) -> bool:
    """Compile every block for any number of tokens; False when the model has no list of blocks."""
    layers = layers_of(model)
    for layer in layers:
        layer.compile(dynamic=True)
    return bool(layers)
