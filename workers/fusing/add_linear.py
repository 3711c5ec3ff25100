"""A product added onto what is there already, and what a compiler's graph must look like for that to be safe."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

#: operators of a sum in a traced graph
SUMS = (operator.add, torch.add)


# opaque: a compiler would take the sum and the product apart again
@torch.library.custom_op("parquetry::add_linear_", mutates_args=("residual",))
def add_linear_(residual: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add x (..., inputs) times weight (outputs, inputs) to residual (..., outputs), in place."""
    residual.view(-1, residual.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight.t())


@add_linear_.register_fake
def _(residual: Tensor, x: Tensor, weight: Tensor) -> None:
    return None


def without_dropout(node: Any) -> Any:
    """What goes into a dropout that is off, else the node itself."""
    is_off = isinstance(node, fx.Node) and node.target is F.dropout and len(node.args) > 2 and node.args[2] is False
    return node.args[0] if is_off and len(node.users) == 1 else node


def is_own_product(node: Any) -> bool:
    """Whether this is a linear layer over a plain weight, and nobody else wants its output."""
    if not isinstance(node, fx.Node) or node.target is not F.linear or len(node.users) != 1 or node.kwargs:
        return False
    weight, x = (example(argument) for argument in (node.args[1], node.args[0]))
    return is_plain(weight) and is_plain(x) and weight.dtype == x.dtype


def bias_of(product: fx.Node) -> Any:
    """The bias of a linear layer, None without one."""
    return product.args[2] if len(product.args) > 2 else None


def example(node: Any) -> Any:
    """The tensor that stands for a node's value while the graph is traced."""
    return node.meta.get("example_value") if isinstance(node, fx.Node) else None


def is_plain(value: Any) -> bool:
    """A tensor, and none of a quantizer's, whose product is another."""
    return isinstance(value, torch._subclasses.FakeTensor)


def is_like(node: fx.Node, total: fx.Node) -> bool:
    """Whether a node's value is a plain tensor of the other's shape and dtype."""
    mine, sums = example(node), example(total)
    return is_plain(mine) and mine.shape == sums.shape and mine.dtype == sums.dtype


def erase(graph: fx.Graph, *nodes: fx.Node) -> None:
    """Take out nodes that nobody uses any more; what removes dead code would also remove assignments to slices."""
    for node in dict.fromkeys(nodes):
        graph.erase_node(node)


def inductor_after(change: Callable[[fx.GraphModule], object], options: dict[str, Any]) -> Callable[..., Any]:
    """A backend for torch.compile: inductor with `options`, after `change` has rewritten the graph."""
    from torch._inductor.compile_fx import compile_fx

    def compile_graph(graph_module: fx.GraphModule, inputs: list[Any]) -> Any:
        change(graph_module)
        return compile_fx(graph_module, inputs, config_patches=options)

    return compile_graph
