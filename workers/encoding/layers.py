"""The repeated layers of a model, compiled one by one: a compiled layer is compiled once and serves all of them."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks in order; [] when no list of num_hidden_layers modules is found."""
    count = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def compile_layers(model: PreTrainedModel) -> bool:
    """Compile every block, and the embeddings, for any number of tokens; False when there is no list of blocks."""
    layers = layers_of(model)
    embeddings = getattr(model.base_model, "embeddings", None)
    for layer in [*layers, *([embeddings] if layers and embeddings is not None else [])]:
        layer.compile(dynamic=True)
    return bool(layers)


def block_weights(model: PreTrainedModel) -> list[Tensor]:
    """The matrices (out, in) that one block multiplies its tokens with; [] when there is no list of blocks."""
    blocks = layers_of(model)
    return [parameter for parameter in blocks[0].parameters() if parameter.ndim == 2] if blocks else []
