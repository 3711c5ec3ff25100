"""The repeated layers of a model, compiled one by one: a compiled layer is compiled once and serves all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from parquetry.workers.fusing.add_linear import inductor_after
from parquetry.workers.fusing.encoder_sums import put_sums_into_products


def layer_list(model: PreTrainedModel) -> nn.ModuleList | None:
    """The list of the transformer blocks, or of the one that ALBERT computes many times; None where there is none."""
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    whole = (module for module in lists if len(module) == model.config.num_hidden_layers)
    return next(whole, next(iter(lists), None))


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks in order; [] when no list of num_hidden_layers modules is found."""
    found = layer_list(model)
    return list(found) if found is not None and len(found) == model.config.num_hidden_layers else []


def compile_encoder(model: PreTrainedModel) -> bool:
    """Compile every block, and the embeddings, for any number of tokens; False when there is no list of blocks."""
    layers = layers_of(model)
    embeddings = getattr(model.base_model, "embeddings", None)
    for layer in [*layers, *([embeddings] if layers and embeddings is not None else [])]:
        layer.compile(dynamic=True, backend=_compiler())
    return bool(layers)


@cache
def _compiler() -> Callable[..., Any]:
    """The same one every time, or every block would be compiled anew."""
    return inductor_after(put_sums_into_products, {})
