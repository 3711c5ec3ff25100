"""A layer's last sum inside the product before it: cuBLAS adds onto what is there already.

As a layer is written, its last product goes to memory and comes back to be added to the residual: one kernel and two
passes over the activations more than there need be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from parquetry.workers.fusing.add_linear import SUMS, bias_of, erase, is_like, is_own_product, without_dropout


def put_sum_into_product(graph_module: fx.GraphModule) -> bool:
    """Where a layer's output is a residual plus a product, add the product onto the residual; returns whether it is.

    The residual must be made in the layer: what comes in belongs to somebody else.
    """
    graph = graph_module.graph
    output = graph.output_node()
    outputs: Sequence[Any] = output.args[0]  # type: ignore[assignment]  # a traced layer returns a tuple
    total = outputs[0] if len(outputs) == 1 else None
    if not isinstance(total, fx.Node) or total.target not in SUMS or len(total.users) > 1 or total.kwargs:
        return False
    pair: Sequence[Any] = total.args
    for residual, product in (pair, pair[::-1]):
        linear = without_dropout(product)
        # a product of the residual itself would read what it overwrites
        if _is_bare_product(linear) and linear.args[0] is not residual and _is_own(residual, total):
            with graph.inserting_before(total):
                graph.call_function(torch.ops.parquetry.add_linear_.default, (residual, *linear.args[:2]))
            total.replace_all_uses_with(residual)
            erase(graph, total, product, linear)
            graph_module.recompile()
            return True
    return False


def _is_bare_product(node: Any) -> bool:
    return is_own_product(node) and bias_of(node) is None


def _is_own(node: Any, total: fx.Node) -> bool:
    """Whether a residual is a plain tensor of the sum's shape and dtype, computed in the layer by an operator."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.target not in SUMS:
        return False
    return is_like(node, total)
