"""A layer's last sum goes into the product before it where that is safe, and the tokens stay what they were."""

from __future__ import annotations

import operator
from shutil import which

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from parquetry.workers.fusing.add_linear import add_linear_, inductor_after
from parquetry.workers.fusing.decoder_sums import put_sum_into_product
from parquetry.workers.packed.compile import decoder_layers
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)


def test_the_product_is_added_in_place() -> None:
    residual, x = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 1.0, 2.0]]])
    add_linear_(residual, x, torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]]))
    # 3 * 1 + 2 * 1 onto 1, and 1 * 2 onto 2
    assert residual.tolist() == [[[6.0, 4.0]]]


def test_the_operator_is_sound() -> None:
    torch.library.opcheck(add_linear_, (torch.randn(1, 5, 4), torch.randn(1, 5, 3), torch.randn(4, 3)))


# the sum of a Cohere layer has three parts; DeepSeek assigns to slices, and its second layer has experts
@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {True}), ("phi3", {True}), ("cohere", {True}), ("gemma2", {False}), ("gpt2", {False}),
        ("deepseek_v3", {True, False}),
    ],
)  # fmt: skip
def test_families_keep_their_tokens(family: str, expected: set[bool]) -> None:
    torch.compiler.reset()
    model, prompts, found = tiny_model(family), make_prompts(5, 9, 21, 3), set()
    want = reference_outputs(model, prompts, 8)
    engine = PackedEngine(model, None, (), PackedOptions(token_budget=64, num_blocks=64))

    def compile_layer(graph_module: fx.GraphModule, _inputs: list) -> object:
        found.add(put_sum_into_product(graph_module))
        return graph_module.forward

    for layer in decoder_layers(model, engine.components.layers):
        layer.compile(dynamic=True, backend=compile_layer)
    done = run_all(engine, make_requests(prompts, max_new_tokens=8))
    assert [done[i].output_ids.tolist() for i in sorted(done)] == want
    assert found == expected


class Layer(nn.Module):
    """x + 1, then the sum of it and of a product."""

    def __init__(self, *, bias: bool = False, own: bool = True, twice: bool = False, bare: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=bias)
        self.own, self.twice, self.bare = own, twice, bare

    def forward(self, x: Tensor) -> Tensor:
        residual = x + 1 if self.own else x
        product = self.linear(residual if self.bare else residual.relu())
        total = residual + product
        return total * product if self.twice else total


def graph_of(layer: Layer) -> fx.GraphModule:
    graphs = []

    def keep(graph_module: fx.GraphModule, _inputs: list) -> object:
        graphs.append(graph_module)
        return graph_module.forward

    torch.compiler.reset()
    torch.compile(layer, backend=keep, dynamic=True)(torch.ones(1, 3, 4))
    return graphs[0]


def targets(graph_module: fx.GraphModule) -> list[object]:
    return [node.target for node in graph_module.graph.nodes]


def test_a_residual_of_the_layer_takes_the_product() -> None:
    graph_module = graph_of(Layer())
    assert put_sum_into_product(graph_module)
    assert F.linear not in targets(graph_module) and targets(graph_module).count(operator.add) == 1


@pytest.mark.parametrize("options", [{"bias": True}, {"own": False}, {"twice": True}, {"bare": True}])
def test_other_sums_stay(options: dict[str, bool]) -> None:
    graph_module = graph_of(Layer(**options))
    before = targets(graph_module)
    assert not put_sum_into_product(graph_module)
    assert targets(graph_module) == before


@pytest.mark.skipif(not any(map(which, ("g++", "clang++"))), reason="inductor needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_inductor_adds_in_place_and_copies_nothing() -> None:
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    layer, x = Layer(), torch.randn(1, 3, 4)
    with torch.inference_mode():
        want = layer(x)
        compiled = torch.compile(layer, backend=inductor_after(put_sum_into_product, {}), dynamic=True)
        got, (code,) = run_and_get_code(compiled, x)
    torch.testing.assert_close(got, want)
    assert "parquetry.add_linear_.default(" in code and "clone" not in code
