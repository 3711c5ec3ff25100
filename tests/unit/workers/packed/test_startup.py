"""A change that speeds a model up is kept when its layers compute what they did, and taken back when they do not."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.startup import Changes
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)


@pytest.fixture
def engine() -> PackedEngine:
    return PackedEngine(tiny_model("llama").to(torch.bfloat16), None, (), PackedOptions(num_blocks=32))


@pytest.fixture
def undo() -> ExitStack:
    return ExitStack()


@pytest.fixture
def changes(engine: PackedEngine, undo: ExitStack) -> Changes:
    return Changes(engine.runner.forward, engine.components.checks, undo)


def scale(module: nn.Linear, factor: float, undo: ExitStack) -> None:
    """A change of a layer's outputs, and what undoes it."""
    before = module.weight.data.clone()
    undo.callback(module.weight.data.copy_, before)
    module.weight.data.mul_(factor)


def test_a_change_within_rounding_stays_until_it_is_undone(
    engine: PackedEngine, changes: Changes, undo: ExitStack
) -> None:
    weight = engine.model.model.layers[0].mlp.down_proj.weight
    before = weight.clone()
    changes.make("a hum", lambda stack: scale(engine.model.model.layers[0].mlp.down_proj, 1.004, stack))
    assert not torch.equal(weight, before)
    assert changes.taken_back == {}
    undo.close()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", ["lm_head", "model.layers.1.self_attn.o_proj"])
def test_a_change_of_what_is_computed_is_taken_back(
    engine: PackedEngine, changes: Changes, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    prompts = make_prompts(4, 9)
    want = reference_outputs(tiny_model("llama").to(torch.bfloat16), prompts, 5)
    with caplog.at_level(logging.WARNING):
        changes.make("wrong kernels", lambda stack: scale(engine.model.get_submodule(name), 1.1, stack))
    (message,) = caplog.messages
    assert message == f"runs without wrong kernels: {changes.taken_back['wrong kernels']}"
    engine.scheduler.pool.forget_all()
    done = run_all(engine, make_requests(prompts, max_new_tokens=5))
    assert [done[i].output_ids.tolist() for i in sorted(done)] == want


def test_a_change_that_does_not_run_is_taken_back(changes: Changes, caplog: pytest.LogCaptureFixture) -> None:
    undone: list[bool] = []

    def failing(stack: ExitStack) -> None:
        stack.callback(undone.append, True)
        raise RuntimeError("no compiler\nand a traceback")

    with caplog.at_level(logging.WARNING):
        changes.make("compiled layers", failing)
    assert undone == [True]
    assert caplog.messages == ["runs without compiled layers: no compiler"]
    assert changes.taken_back == {"compiled layers": "no compiler"}
