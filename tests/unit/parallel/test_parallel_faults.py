"""What becomes of an engine when one of its ranks runs out of memory, or computes other tokens than the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from shared_models import LENGTHS, load_one, load_ranks, make_requests, outputs, run_all, write_model

from workers.parallel.group import RanksDivergedError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="transformers takes the cards where there are some")


def test_out_of_memory_on_any_rank_then_other_tokens_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of ranks for all three, because starting ranks is what takes the time."""
    folder = write_model(tmp_path / "model", "llama")
    requests = make_requests(*LENGTHS, temperature=0.7)
    expected = outputs(run_all(load_one(folder), requests))
    monkeypatch.setenv("PARQUETRY_TEST_FAULTS", "layer:3,sampler:12,tokens:200")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr("workers.parallel.ranks.MODULE", "faulty_rank")
    problems: list[str] = []
    engine = load_ranks(folder, 2, tmp_path, problems)
    try:
        packed = engine.engine
        # the token budget shrinks with every fault, and is 64 here
        packed.scheduler.token_budget = 1024
        packed._lookahead = True
        assert outputs(run_all(engine, requests)) == expected
        assert (engine.stats()["out_of_memory"], packed.scheduler.token_budget) == (2, 256)

        fail_once(packed.runner.sampler, monkeypatch)
        assert outputs(run_all(engine, requests)) == expected
        assert (engine.stats()["out_of_memory"], packed.scheduler.token_budget) == (3, 128)
        engine.check_integrity()

        monkeypatch.setattr("workers.packed.together.COMPARE_EVERY", 1)
        with pytest.raises(RanksDivergedError, match="the tokens of rank 0 and of rank 1 differ"):
            for _ in range(20):
                run_all(engine, requests)
        assert len(problems) == 1
        assert "rank 1 (cpu): RanksDivergedError" in problems[0]
    finally:
        engine.close()


def fail_once(sampler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run out of memory in the fifth draw of this rank."""
    sample, calls = sampler.sample, []

    def failing(*args):
        calls.append(None)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(*args)

    monkeypatch.setattr(sampler, "sample", failing)
