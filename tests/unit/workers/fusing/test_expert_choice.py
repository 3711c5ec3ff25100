"""Picking the best few experts, and finding in a layer's graph where that is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from parquetry.workers.fusing.expert_choice import choose_experts, choose_in_one_kernel
from tests.unit.workers.packed.packed_families import tiny_model

OURS = torch.ops.parquetry.choose_experts.default


def test_the_first_of_equals_is_chosen_first() -> None:
    values, places = choose_experts(torch.tensor([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), 3)
    assert places.tolist() == [[1, 2, 3], [0, 1, 2]] and values.tolist() == [[3.0, 3.0, 2.0], [0.0, 0.0, 0.0]]


def test_the_operator_is_sound() -> None:
    """Its schema, and that the compiler is told the shapes it returns."""
    for shape in ((6, 9), (2, 3, 9)):
        torch.library.opcheck(choose_experts, (torch.randn(shape), 4))


def rewritten(function: Callable[..., Any], *inputs: Tensor) -> tuple[int, Any]:
    """How often a function's graph picks with our operator, and what it then computes."""
    counts = []

    def change(graph_module: fx.GraphModule, _: list[Any]) -> Callable[..., Any]:
        choose_in_one_kernel(graph_module)
        counts.append(sum(node.target is OURS for node in graph_module.graph.nodes))
        return graph_module.forward

    torch._dynamo.reset()
    out = torch.compile(function, backend=change, dynamic=True, fullgraph=True)(*inputs)
    return sum(counts), out


def test_every_way_to_pick_the_largest_is_found() -> None:
    x, weight = torch.randn(5, 8), torch.eye(8)
    # as in a layer, whose weights say how many experts there are
    torch._dynamo.mark_static(weight)
    for pick in (
        lambda x: torch.topk(x, 2, dim=-1),
        lambda x: torch.topk(x, k=2, dim=-1, sorted=False),
        lambda x: x.topk(2, dim=1),
        lambda x: x.topk(2),
    ):
        count, (values, places) = rewritten(lambda x, w, pick=pick: tuple(pick(x @ w)), x, weight)
        want = x.topk(2)
        assert count == 1 and torch.equal(values, want.values) and torch.equal(places, want.indices)


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: torch.topk(x, 2, largest=False),
        lambda x: torch.topk(x, 2, dim=0),
        lambda x: torch.topk(x.long(), 2),
        lambda x: torch.topk(x.repeat(1, 200), 2),
        lambda x: torch.topk(x.repeat(1, 8), 20),
    ],
)
def test_other_picks_are_left_alone(pick: Callable[[Tensor], Any]) -> None:
    x = torch.randn(5, 8)
    torch._dynamo.mark_static(x)
    count, out = rewritten(lambda x: tuple(pick(x)), x)
    assert count == 0 and torch.equal(out[0], pick(x)[0])


@torch.inference_mode()
@pytest.mark.parametrize(("family", "count"), [("qwen3_moe", 1), ("mixtral", 1), ("gpt_oss", 1), ("deepseek_v3", 3)])
def test_layers_pick_with_it_and_compute_the_same(family: str, count: int) -> None:
    model = tiny_model(family)
    ids = torch.arange(3, 20)[None]
    want = model(ids).logits
    layer = model.model.layers[-1]
    router = getattr(layer.mlp, "gate", None) or layer.mlp.router
    stock, counts = type(router).forward, []

    def forward(*inputs: Tensor) -> Any:
        times, out = rewritten(lambda *inputs: stock(router, *inputs), *inputs)
        counts.append(times)
        return out

    router.forward = forward
    torch.testing.assert_close(model(ids).logits, want, rtol=1e-4, atol=1e-4)
    assert counts == [count]
