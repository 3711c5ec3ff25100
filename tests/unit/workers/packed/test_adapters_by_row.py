"""Rows of different adapters in one packed batch: each answers as the model with its adapter merged."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.loading.adapters.adapter_bank import AdaptedLinear, AdapterBank, attach
from parquetry.workers.loading.adapters.merged_adapter import merge
from parquetry.workers.packed.compile import decoder_layers, reset_layers
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.scheduling.prefix import chain_block_keys
from parquetry.workers.request import GenerationRequest
from tests.unit.workers.checkpoint.adapter_folders import SHAPES, write_adapter
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

NAMES = (None, *SHAPES)
#: the same text for everybody, so that a block shared between adapters would show
PREFIX = make_prompts(17, seed=3)[0]
PROMPTS = [np.concatenate([PREFIX, tail]) for tail in make_prompts(3, 8, 1, 30, seed=4)]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The model with its adapters beside it, and what merged models write by adapter name."""
    model = tiny_model(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    adapters = {name: Adapter(write_adapter(folder / name, model, name)) for name in SHAPES}
    merged = {name: merge(copy.deepcopy(model), adapter, name="m") for name, adapter in adapters.items()}
    models = {None: copy.deepcopy(model), **merged}
    expected = {name: reference_outputs(each, PROMPTS, 12) for name, each in models.items()}
    return attach(model, adapters, name="m"), expected


def mixed_requests() -> list[GenerationRequest]:
    """Every prompt with every adapter, neighbours with different ones."""
    pairs = [(prompt, name) for prompt in PROMPTS for name in NAMES]
    requests = make_requests([prompt for prompt, _ in pairs], max_new_tokens=12)
    return [replace(r, adapter=name) for r, (_, name) in zip(requests, pairs, strict=True)]


@pytest.mark.parametrize("num_blocks", [12, 128])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_rows_answer_as_with_their_adapter_merged(case, num_blocks: int, prefix_cache: bool) -> None:
    model, expected = case
    options = {"block_size": 8, "token_budget": 48, "num_blocks": num_blocks, "prefix_cache": prefix_cache}
    engine = PackedEngine(model, None, (), PackedOptions(**options))
    done = run_all(engine, mixed_requests())
    engine.close()
    wanted = [expected[name][index] for index in range(len(PROMPTS)) for name in NAMES]
    assert [done[i].output_ids.tolist() for i in sorted(done)] == wanted
    assert len({tuple(outputs[0]) for outputs in expected.values()}) == len(NAMES)
    assert (engine.stats()["preemptions"] > 0) == (num_blocks == 12)
    # two full blocks of the prefix, shared by the rows of one adapter alone
    if prefix_cache and num_blocks == 128:
        assert engine.stats()["cached_tokens"] == len(NAMES) * (len(PROMPTS) - 1) * 16


def test_rows_of_the_base_model_are_the_base_models_to_the_bit(case) -> None:
    model, _ = case
    bank, ids = AdapterBank.of(model), torch.arange(5, 25)[None]
    with torch.inference_mode():
        plain = model(input_ids=ids).logits
        with bank.choosing(torch.zeros(20, dtype=torch.int64)):
            assert torch.equal(model(input_ids=ids).logits, plain)


def test_an_unknown_adapter_is_an_error_row(case) -> None:
    model, expected = case
    engine = PackedEngine(model, None, (), PackedOptions(block_size=8, num_blocks=64))
    requests = [replace(r, adapter=name) for r, name in zip(mixed_requests()[:2], ["other", None], strict=True)]
    done = run_all(engine, requests)
    engine.close()
    assert done[0].error == "there is no adapter 'other'; model.adapters lists attention, everything, mlp"
    assert done[1].output_ids.tolist() == expected[None][0]


def test_blocks_are_named_after_their_adapter() -> None:
    keys = [chain_block_keys(PREFIX, 8, adapter) for adapter in (0, 1, 2)]
    assert keys[0] == chain_block_keys(PREFIX, 8)
    assert len({key for each in keys for key in each}) == 6


def layer_by_hand() -> AdaptedLinear:
    """y = x, adapter 1 adds 10 * (x0, 0), adapter 2 adds (0, 100 * x1)."""
    base = torch.nn.Linear(2, 2, bias=False)
    base.weight.data = torch.eye(2)
    one = torch.tensor([[1.0, 0.0]]), torch.tensor([[10.0], [0.0]])
    two = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    return AdaptedLinear(base, AdapterBank(["one", "two"]), {1: one, 2: two})


@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 2), (3, 1, 2)])
def test_a_layer_by_hand(shape: tuple[int, ...]) -> None:
    layer = layer_by_hand()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).reshape(shape)
    with torch.inference_mode(), layer.bank.choosing(torch.tensor([2, 0, 1])):
        got = layer(x)
    assert got.shape == shape
    assert got.reshape(3, 2).tolist() == [[1, 202], [3, 4], [55, 6]]


def test_a_row_is_safe_from_the_overflow_of_another_adapter() -> None:
    layer = layer_by_hand()
    layer.down[0] = 3e38
    with torch.inference_mode(), layer.bank.choosing(torch.tensor([2])):
        assert layer(torch.tensor([[1e9, 1.0]])).tolist() == [[1e9, 101]]


def test_a_compiled_layer_serves_every_batch_in_one_graph() -> None:
    layer, graphs = layer_by_hand(), []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=count, dynamic=True, fullgraph=True)
    with torch.inference_mode():
        for numbers in ([0, 1, 2], [2, 2, 1, 0, 0], [1] * 40):
            chosen = torch.tensor(numbers)
            x = torch.ones(1, len(numbers), 2)
            with layer.bank.choosing(chosen):
                assert compiled(x)[0].tolist() == [[1 + 10 * (n == 1), 1 + 100 * (n == 2)] for n in numbers]
    assert len(graphs) == 1


def test_decoder_layers_with_adapters_share_their_graphs(case) -> None:
    model, expected = case
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    engine = PackedEngine(model, None, (), PackedOptions(block_size=8, num_blocks=128))
    for layer in decoder_layers(model, engine.components.layers):
        layer.compile(dynamic=True, backend=count)
    done = run_all(engine, mixed_requests())
    reset_layers(model, engine.components.layers)
    engine.close()
    wanted = [expected[name][index] for index in range(len(PROMPTS)) for name in NAMES]
    assert [done[i].output_ids.tolist() for i in sorted(done)] == wanted
    # both layers, prefills and decodes; a batch of one row is a case of its own to the compiler
    assert len(graphs) <= 2
