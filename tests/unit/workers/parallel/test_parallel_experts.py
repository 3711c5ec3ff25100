"""A mixture of experts on four ranks: every rank holds a part of every expert."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from parquetry.workers.request import GenerationRequest
from tests.unit.workers.parallel.shared_models import (
    EXPERTS,
    LENGTHS,
    load_one,
    load_ranks,
    make_requests,
    outputs,
    run_all,
    write_model,
)

SAMPLED = {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "seed": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="transformers takes the cards where there are some")
def test_experts_on_four_ranks(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "qwen3_moe", **EXPERTS)
    problems: list[str] = []
    requests = [
        *make_requests(*LENGTHS[:5], max_new_tokens=8),
        *make_requests(*LENGTHS[:5], max_new_tokens=8, **SAMPLED),
    ]
    requests = [
        GenerationRequest(id=i, row=r.row, prompt_ids=r.prompt_ids, params=r.params) for i, r in enumerate(requests)
    ]
    four = load_ranks(folder, 4, tmp_path, problems)
    try:
        assert outputs(run_all(four, requests)) == outputs(run_all(load_one(folder), requests))
    finally:
        four.close()
    assert problems == []
