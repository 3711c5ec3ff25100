"""The best few experts of each token in one kernel; torch's top k of so few numbers takes two, four times as long."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from parquetry.workers.fusing.add_linear import example, is_plain

#: most numbers of a row that one warp looks through
MAX_WIDTH = 1024
#: most of them that it picks, one after the other
MAX_CHOSEN = 16


# opaque: a compiler knows only how to call torch's
@torch.library.custom_op("parquetry::choose_experts", mutates_args=())
def choose_experts(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of scores (..., width), largest first, and where they are (..., k) int64; the first of equals."""
    if scores.is_cuda:
        # Importing the kernels imports Triton, which a CPU build of torch does not bring.
        from parquetry.workers.fusing.expert_choice_kernel import choose

        return choose(scores, k)
    values, places = scores.sort(dim=-1, descending=True, stable=True)
    return values[..., :k].contiguous(), places[..., :k].contiguous()


@choose_experts.register_fake
def _(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (*scores.shape[:-1], k)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


def choose_in_one_kernel(graph_module: fx.GraphModule) -> None:
    """Where a layer picks the top k of few numbers, pick them with our operator."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        taken = _top_k(node)
        if taken is not None and _suits(*taken):
            with graph.inserting_before(node):
                chosen = graph.call_function(torch.ops.parquetry.choose_experts.default, taken)
            node.replace_all_uses_with(chosen)
            graph.erase_node(node)
    graph_module.recompile()


def _top_k(node: fx.Node) -> tuple[Any, Any] | None:
    """What a node picks from and how many, when it picks the largest of the last dimension."""
    if node.target not in (torch.topk, "topk") or not _unpacked(node):
        return None
    names = ("input", "k", "dim", "largest", "sorted")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    scores = example(given.get("input"))
    if scores is None or given.get("dim", -1) not in (-1, scores.dim() - 1) or not given.get("largest", True):
        return None
    return given["input"], given["k"]


def _unpacked(node: fx.Node) -> bool:
    """Whether all that is done with the pair is to take it apart by numbers."""
    return all(user.target is operator.getitem for user in node.users)


def _suits(scores: fx.Node, k: Any) -> bool:
    """Whether our kernel is made for this; a width that changes from step to step is not."""
    value = example(scores)
    if not is_plain(value) or value.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    width = value.shape[-1]
    return isinstance(width, int) and isinstance(k, int) and 0 < k <= min(width, MAX_CHOSEN) and width <= MAX_WIDTH
