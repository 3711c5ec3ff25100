"""Tensor parallel engines on CPU ranks: the tokens of one device, whatever is asked and however it is scheduled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parquetry.schemas.settings import settings
from parquetry.workers.engine import Engine
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.hosting.leading import LeadingEngine
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.request import GenerationRequest
from tests.unit.workers.parallel.shared_models import (
    LENGTHS,
    load_one,
    load_ranks,
    make_requests,
    outputs,
    run_all,
    weight_bytes,
    write_model,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="transformers takes the cards where there are some")
SAMPLED = {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "presence_penalty": 0.2, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Norms of single heads, and one matrix for the embedding and the logits."""
    return write_model(tmp_path_factory.mktemp("qwen3"), "qwen3", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def one(folder: Path) -> Engine:
    return load_one(folder)


@pytest.fixture(scope="module")
def problems() -> list[str]:
    """What would have ended the process."""
    return []


@pytest.fixture(scope="module")
def two(folder: Path, problems: list[str], tmp_path_factory) -> Iterator[LeadingEngine]:
    engine = load_ranks(folder, 2, tmp_path_factory.mktemp("ranks"), problems)
    yield engine
    engine.close()


@pytest.mark.parametrize("params", [{}, SAMPLED, {"repetition_penalty": 1.3}], ids=["greedy", "sampled", "penalty"])
def test_tokens_are_those_of_one_device(one: Engine, two: LeadingEngine, params: dict) -> None:
    requests = make_requests(*LENGTHS, **params)
    assert outputs(run_all(two, requests)) == outputs(run_all(one, requests))
    two.check_integrity()


def test_each_rank_holds_half(one: Engine, two: LeadingEngine) -> None:
    whole, half = weight_bytes(one.model), weight_bytes(two.engine.model)
    assert half < 0.52 * whole
    assert [layer.num_kv_heads for layer in two.engine.components.layers] == [1, 1]
    linear = [module for module in two.engine.model.modules() if isinstance(module, nn.Linear)]
    # what merging q, k and v relies on
    assert linear
    assert all(tuple(layer.weight.shape) == (layer.out_features, layer.in_features) for layer in linear)
    assert two.describe()["tensor_parallel"] == "2"


def test_logprobs(one: Engine, two: LeadingEngine) -> None:
    requests = make_requests(*LENGTHS, logprobs=True)
    mine, theirs = run_all(two, requests), run_all(one, requests)
    for i in mine:
        np.testing.assert_allclose(mine[i].logprobs, theirs[i].logprobs, atol=1e-4)


def test_grammars(one: Engine, two: LeadingEngine) -> None:
    grammar = Grammar("regex", "[a-f]{3}-[0-9]{2,5}").text
    free = make_requests(*LENGTHS)
    bound = make_requests(*LENGTHS, grammar=grammar, temperature=0.8)
    requests = [free[i] if i % 2 else bound[i] for i in range(len(free))]
    assert outputs(run_all(two, requests)) == outputs(run_all(one, requests))


def test_a_shared_prefix_is_computed_once(one: Engine, two: LeadingEngine) -> None:
    prefix = np.arange(70, dtype=np.int32) + 10
    tails = make_requests(4, 2, 7)
    requests = [
        GenerationRequest(id=r.id, row=r.row, prompt_ids=np.concatenate([prefix, r.prompt_ids]), params=r.params)
        for r in tails
    ]
    before = two.stats()["cached_tokens"]
    assert outputs(run_all(two, requests)) == outputs(run_all(one, requests))
    assert two.stats()["cached_tokens"] == before + 2 * 64


@pytest.mark.parametrize("lookahead", [False, True])
def test_preemption(one: Engine, two: LeadingEngine, lookahead: bool) -> None:
    requests = make_requests(*LENGTHS, max_new_tokens=60, temperature=0.7)
    packed = two.engine
    kept = packed.pool, packed.scheduler, packed.lookahead
    packed.pool, packed.lookahead = BlockPool(8, packed.pool.block_size), lookahead
    packed.scheduler = Scheduler(packed.pool, packed.lane_table, token_budget=64, max_model_len=packed.max_model_len)
    try:
        assert outputs(run_all(two, requests)) == outputs(run_all(one, requests))
        assert two.stats()["preemptions"] > 0
    finally:
        packed.pool, packed.scheduler, packed.lookahead = kept
        # its blocks were written to under other numbers
        packed.pool.forget_all()


def test_cancelled_requests_return_nothing(one: Engine, two: LeadingEngine) -> None:
    requests = make_requests(*LENGTHS)
    two.add(requests)
    for _ in range(3):
        two.step()
    two.cancel([0, 5])
    done = run_all(two, [])
    expected = run_all(one, requests)
    assert {i: done[i].output_ids.tolist() for i in done} == {
        i: expected[i].output_ids.tolist() for i in expected if i not in (0, 5)
    }


def test_ranks_are_compared(two: LeadingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parquetry.workers.packed.together.COMPARE_EVERY", 2)
    outputs(run_all(two, make_requests(*LENGTHS)))


def test_a_silent_rank_ends_the_engine(two: LeadingEngine, problems: list[str], monkeypatch) -> None:
    """The last test of these ranks, which nobody watches from here on."""
    assert problems == []
    monkeypatch.setenv("PARQUETRY_ENGINE_STALL_SECONDS", "3")
    settings.cache_clear()
    (rank,) = two.ranks.members
    os.kill(rank.pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 60
        while not problems and time.monotonic() < deadline:
            time.sleep(0.1)
        assert problems == ["rank 1 (cpu) gave no sign of life for 2.4 s"]
    finally:
        os.kill(rank.pid, signal.SIGCONT)
        monkeypatch.undo()
        settings.cache_clear()
