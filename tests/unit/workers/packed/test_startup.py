"""A change that speeds a model up is kept when the logits stay what they were, and taken back when it is not so."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.startup import try_change
from tests.unit.workers.packed.packed_families import (
    make_prompts,
    make_requests,
    reference_outputs,
    run_all,
    tiny_model,
)


@pytest.fixture
def engine() -> PackedEngine:
    return PackedEngine(tiny_model("llama"), None, (), PackedOptions(num_blocks=32))


def scale_head(engine: PackedEngine, factor: float) -> object:
    """A change of the logits, and what undoes it."""
    head: nn.Linear = engine.model.lm_head
    head.weight.data.mul_(factor)
    return lambda: head.weight.data.div_(factor)


def test_a_change_within_rounding_stays_until_it_is_undone(engine: PackedEngine) -> None:
    before = engine.model.lm_head.weight.clone()
    undo = try_change(engine.model, engine.runner, "a hum", lambda: scale_head(engine, 1.0005))
    assert not torch.equal(engine.model.lm_head.weight, before)
    undo()
    torch.testing.assert_close(engine.model.lm_head.weight, before)


def test_a_change_of_the_logits_is_taken_back(engine: PackedEngine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        try_change(engine.model, engine.runner, "wrong kernels", lambda: scale_head(engine, 1.1))()
    (message,) = caplog.messages
    assert message.startswith("runs without wrong kernels: logits differ with wrong kernels: relative error")
    prompts = make_prompts(4, 9)
    done = run_all(engine, make_requests(prompts, max_new_tokens=5))
    assert [done[i].output_ids.tolist() for i in sorted(done)] == reference_outputs(tiny_model("llama"), prompts, 5)


def test_a_change_that_does_not_run_is_taken_back(engine: PackedEngine, caplog: pytest.LogCaptureFixture) -> None:
    prove, calls = engine.runner.prove, []

    def failing() -> torch.Tensor:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("no compiler\nand a traceback")
        return prove()

    engine.runner.prove = failing
    undone = []
    with caplog.at_level(logging.WARNING):
        try_change(engine.model, engine.runner, "compiled layers", lambda: lambda: undone.append(True))
    assert undone == [True]
    assert caplog.messages == ["runs without compiled layers: no compiler"]
