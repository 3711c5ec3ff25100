"""A layer's last sum inside the product before it: cuBLAS adds onto what is there already.

As a layer is written, its last product goes to memory and comes back to be added to the residual: one kernel and two
passes over the activations more than there need be.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

_SUMS = (operator.add, torch.add)


# opaque: a compiler would take the sum and the product apart again
@torch.library.custom_op("parquetry::add_linear_", mutates_args=("residual",))
def add_linear_(residual: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add x (..., inputs) times weight (outputs, inputs) to residual (..., outputs), in place."""
    residual.view(-1, residual.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight.t())


@add_linear_.register_fake
def _(residual, x, weight):
    return None


def with_sum_in_product(options: dict[str, Any]) -> Callable[[fx.GraphModule, list[Any]], Any]:
    """A backend for torch.compile: inductor with `options`, after `put_sum_into_product`."""
    from torch._inductor.compile_fx import compile_fx

    def compile_layer(graph_module: fx.GraphModule, inputs: list[Any]) -> Any:
        put_sum_into_product(graph_module)
        return compile_fx(graph_module, inputs, config_patches=options)

    return compile_layer


def put_sum_into_product(graph_module: fx.GraphModule) -> bool:
    """Where a layer's output is a residual plus a product, add the product onto the residual; returns whether it is.

    The residual must be made in the layer: what comes in belongs to somebody else.
    """
    graph = graph_module.graph
    output = graph.output_node()
    total = output.args[0][0] if len(output.args[0]) == 1 else None
    if not isinstance(total, fx.Node) or total.target not in _SUMS or len(total.users) > 1 or total.kwargs:
        return False
    for residual, product in (total.args, reversed(total.args)):
        linear = _without_dropout(product)
        # a product of the residual itself would read what it overwrites
        if _is_bare_product(linear) and linear.args[0] is not residual and _is_own(residual, total):
            with graph.inserting_before(total):
                graph.call_function(torch.ops.parquetry.add_linear_.default, (residual, *linear.args[:2]))
            total.replace_all_uses_with(residual)
            # one by one: what removes dead code would also remove assignments to slices
            for node in dict.fromkeys((total, product, linear)):
                graph.erase_node(node)
            graph_module.recompile()
            return True
    return False


def _without_dropout(node: Any) -> Any:
    """What goes into a dropout that is off, else the node itself."""
    is_off = isinstance(node, fx.Node) and node.target is F.dropout and len(node.args) > 2 and node.args[2] is False
    return node.args[0] if is_off and len(node.users) == 1 else node


def _is_bare_product(node: Any) -> bool:
    """Whether this is a linear layer without a bias over a plain weight, and nobody else wants its output."""
    if not isinstance(node, fx.Node) or node.target is not F.linear or len(node.users) != 1 or node.kwargs:
        return False
    has_bias = len(node.args) > 2 and node.args[2] is not None
    weight, x = (_example(argument) for argument in (node.args[1], node.args[0]))
    return not has_bias and _is_plain(weight) and _is_plain(x) and weight.dtype == x.dtype


def _is_own(node: Any, total: fx.Node) -> bool:
    """Whether a residual is a plain tensor of the sum's shape and dtype, computed in the layer by an operator."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target not in _SUMS:
        return False
    mine, sums = _example(node), _example(total)
    return _is_plain(mine) and mine.shape == sums.shape and mine.dtype == sums.dtype


def _example(node: Any) -> Any:
    return node.meta.get("example_value") if isinstance(node, fx.Node) else None


def _is_plain(value: Any) -> bool:
    """A tensor, and none of a quantizer's, whose product is another."""
    return isinstance(value, torch._subclasses.FakeTensor)
