"""What becomes of an engine when one of its ranks runs out of memory, or computes other tokens than the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from parquetry.workers.packed.together import Compare
from parquetry.workers.parallel.group import RanksDivergedError
from tests.unit.workers.parallel.faulty_rank import EagerGraphs
from tests.unit.workers.parallel.shared_models import (
    load_one,
    load_ranks,
    mixed_requests,
    outputs,
    run_all,
    write_model,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="transformers takes the cards where there are some")


def test_out_of_memory_on_any_rank_then_other_tokens_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of ranks for all of it, because starting ranks is what takes the time."""
    folder = write_model(tmp_path / "model", "llama")
    requests = mixed_requests()
    expected = outputs(run_all(load_one(folder), requests))
    # each at a step that has token masks, which must be neither awaited nor left behind
    monkeypatch.setenv("PARQUETRY_TEST_FAULTS", "layer:3,sampler:12,layer:20,tokens:400,replay")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr("parquetry.workers.parallel.ranks.MODULE", "faulty_rank")
    problems: list[str] = []
    engine = load_ranks(folder, 2, tmp_path, problems)
    try:
        packed = engine.engine
        # the token budget shrinks with every fault, and is 64 here
        packed.scheduler.token_budget = 64 * 2**6
        packed.lookahead = True
        assert outputs(run_all(engine, requests)) == expected
        assert (engine.stats()["out_of_memory"], packed.scheduler.token_budget) == (3, 64 * 2**3)

        fail_once(packed.runner.forward.sampler, "sample", monkeypatch)
        assert outputs(run_all(engine, requests)) == expected
        fail_once(packed.model.model.layers[-1].mlp, "forward", monkeypatch)
        assert outputs(run_all(engine, requests)) == expected
        assert (engine.stats()["out_of_memory"], packed.scheduler.token_budget) == (5, 128)

        packed.runner.step_sender.send(Compare())
        packed.runner.compare()
        packed.runner.graphs = EagerGraphs(packed.runner)
        assert outputs(run_all(engine, requests)) == expected
        assert (engine.stats()["out_of_memory"], packed.scheduler.token_budget) == (6, 64)
        engine.check_integrity()

        monkeypatch.setattr("parquetry.workers.packed.together.COMPARE_EVERY", 1)
        with pytest.raises(RanksDivergedError, match="the tokens of rank 0 and of rank 1 differ"):
            for _ in range(20):
                run_all(engine, requests)
        assert len(problems) == 1
        assert "rank 1 (cpu): RanksDivergedError" in problems[0]
    finally:
        engine.close()


def fail_once(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run out of memory in the fifth call of a method on this rank."""
    method, calls = getattr(owner, name), []

    def failing(*args):
        calls.append(None)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return method(*args)

    monkeypatch.setattr(owner, name, failing)
