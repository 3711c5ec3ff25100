"""What is compiled: every decoder layer once, and what stands around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from parquetry.workers.packed.attention.kv_cache import attach_caches
from parquetry.workers.packed.checks.attention_layers import find_attention_layers
from parquetry.workers.packed.compile import around_layers, decoder_layers
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.packed.packed_families import FAMILIES, make_prompts, make_requests, run_all, tiny_model


def test_decoder_layers_are_found() -> None:
    model = tiny_model("gpt2")
    assert decoder_layers(model, find_attention_layers(model)) is model.transformer.h


def test_around_the_layers_are_the_last_norm_and_the_rotary_embeddings() -> None:
    model = tiny_model("llama")
    assert around_layers(model, model.model.layers) == [model.model.norm, model.model.rotary_emb]
    assert around_layers(model, nn.ModuleList()) == []


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_a_layer_is_compiled_once_per_window_whatever_the_size_of_the_cache(family: str) -> None:
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    engine = PackedEngine(tiny_model(family), None, (), PackedOptions(block_size=8, num_blocks=64))
    requests = make_requests(make_prompts(5, 9, 21), max_new_tokens=6)
    want = {i: done.output_ids for i, done in run_all(engine, requests).items()}
    for layer in decoder_layers(engine.model, engine.components.layers):
        layer.compile(dynamic=True, backend=count)
    attach_caches(engine.components.layers, 16, 8, engine.device)
    engine.components.checks[0].require(engine.runner.forward, "compiled layers differ")
    attach_caches(engine.components.layers, 64, 8, engine.device)
    engine.scheduler.pool.forget_all()
    got = {i: done.output_ids for i, done in run_all(engine, requests).items()}
    assert len(graphs) == (2 if "sliding_window" in FAMILIES[family] else 1)
    for i in want:
        np.testing.assert_array_equal(got[i], want[i])
