"""torch.compile for the decoder layers, one compiled layer for all of a kind, and for what stands around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import fx, nn

from parquetry.workers.fusing.add_linear import inductor_after
from parquetry.workers.fusing.decoder_sums import put_sum_into_product
from parquetry.workers.fusing.expert_choice import choose_in_one_kernel
from parquetry.workers.packed.attention.kv_cache import LayerShape


def decoder_layers(model: nn.Module, layers: Sequence[LayerShape]) -> nn.ModuleList | None:
    """The one ModuleList whose members each hold one of the attention layers."""
    attention = {id(layer.module) for layer in layers}
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(layers):
            owned = [sum(id(m) in attention for m in layer.modules()) for layer in module]
            if all(count == 1 for count in owned):
                return module
    return None


def around_layers(model: nn.Module, layers: nn.ModuleList) -> list[nn.Module]:
    """The modules beside the list of `layers` that compute something: the last norm and the rotary embeddings."""
    for owner in model.modules():
        if any(child is layers for child in owner.children()):
            return [child for child in owner.children() if not isinstance(child, (nn.ModuleList, nn.Embedding))]
    return []


def compiled_modules(model: nn.Module, layers: Sequence[LayerShape]) -> list[nn.Module]:
    """The decoder layers and what stands around them; nothing where no list of layers is found."""
    found = decoder_layers(model, layers)
    return [] if found is None else [*found, *around_layers(model, found)]


def compile_layers(model: nn.Module, layers: Sequence[LayerShape], *, is_shared: bool = False) -> None:
    """Compile every decoder layer and what stands around them, the number of tokens left open."""
    for module in compiled_modules(model, layers):
        module.compile(dynamic=True, backend=compiler(is_shared=is_shared))


@cache
def compiler(*, is_shared: bool) -> Callable[..., Any]:
    """Inductor as the layers want it; the same one every time, or they would be compiled anew.

    Kernels that do not depend on one another, such as those of queries and keys, become one. The ranks of a shared
    model compile each for itself, and must come to kernels that round alike: none is then chosen by a measurement.
    """
    options: dict[str, Any] = {"deterministic": True} if is_shared else {"combo_kernels": True}
    return inductor_after(rewrite, options)


def rewrite(graph_module: fx.GraphModule) -> None:
    """What a compiler would not find by itself."""
    choose_in_one_kernel(graph_module)
    put_sum_into_product(graph_module)


def reset_layers(model: nn.Module, layers: Sequence[LayerShape]) -> None:
    """Run the layers as they came."""
    for module in compiled_modules(model, layers):
        module._compiled_call_impl = None
