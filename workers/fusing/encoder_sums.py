"""Sums with a residual inside the products before them; what is left of the sum is a bias, which the norm can add.

As a block is written, a product goes to memory and comes back to be added: the norm behind it reads two tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from parquetry.workers.fusing.add_linear import (
    SUMS,
    bias_of,
    erase,
    example,
    is_like,
    is_own_product,
    is_plain,
    without_dropout,
)


def put_sums_into_products(graph_module: fx.GraphModule) -> int:
    """Add products onto residuals that nobody reads afterwards; returns how many sums that spared.

    What comes into the block counts as nobody's: only the last hidden states of an encoder are read.
    """
    graph = graph_module.graph
    count = sum(_rewrite(graph, node) for node in list(graph.nodes) if node.target in SUMS and not node.kwargs)
    if count:
        graph_module.recompile()
    return count


def _rewrite(graph: fx.Graph, total: fx.Node) -> bool:
    pair: Sequence[Any] = total.args
    for residual, product in (pair, pair[::-1]):
        linear = without_dropout(product)
        if not is_own_product(linear) or not _is_tensor_of(residual, total) or _is_alias(linear.args[0], residual):
            continue
        if any(_is_alias(argument, residual) for node in _behind(graph, total) for argument in node.all_input_nodes):
            continue
        with graph.inserting_before(total):
            graph.call_function(torch.ops.parquetry.add_linear_.default, (residual, *linear.args[:2]))
            bias = bias_of(linear)
            done: fx.Node = residual if bias is None else graph.call_function(operator.add, (residual, bias))
        done.meta.setdefault("example_value", example(total))
        total.replace_all_uses_with(done)
        erase(graph, total, product, linear)
        return True
    return False


def _is_tensor_of(node: Any, total: fx.Node) -> bool:
    """Whether a residual comes into the block, or is made by an operator that makes new tensors."""
    is_new = isinstance(node, fx.Node) and (node.op == "placeholder" or node.target in (*SUMS, F.layer_norm))
    return is_new and is_like(node, total)


def _behind(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """The nodes that run after this one."""
    nodes = list(graph.nodes)
    return nodes[nodes.index(node) + 1 :]


def _is_alias(node: Any, other: fx.Node) -> bool:
    """Whether two nodes' values lie in the same memory."""
    mine, its = example(node), example(other)
    if not is_plain(mine) or not is_plain(its):
        return node is other
    return mine.untyped_storage()._cdata == its.untyped_storage()._cdata
