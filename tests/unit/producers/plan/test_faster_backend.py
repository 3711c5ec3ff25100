"""plan says where vLLM would be faster, and by what measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parquetry.producers.plan.faster_backend import TIMES, faster_backend
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint


def notes(folder: Path, model_type: str, *, backend: str = "auto", **prompt: object) -> list[str]:
    config = {"model_type": model_type, "is_encoder_decoder": model_type == "t5"}
    (folder / "config.json").write_text(json.dumps(config))
    spec = JobSpec.model_validate(
        {
            "task": "generate",
            "input": {"path": "in"},
            "output": {"path": "out"},
            "model": {"id": str(folder), "backend": backend},
            "prompt": {"template": "{{ text }}", **prompt},
        }
    )
    return list(faster_backend(spec, Checkpoint(folder, "m")))


@pytest.mark.parametrize("model_type", ["bloom", "falcon"])
def test_a_family_that_runs_padded(model_type, tmp_path):
    (said,) = notes(tmp_path, model_type)
    assert f"about {TIMES} times" in said
    assert "measured on an H100" in said
    assert "parquetry worker --queues vllm" in said


def test_prompts_with_images(tmp_path):
    assert notes(tmp_path, "llama", image="picture")


def test_where_rows_are_asked_to_be_padded(tmp_path):
    assert notes(tmp_path, "llama", backend="transformers")


def test_where_it_would_not_be_faster_or_cannot_be(tmp_path):
    assert notes(tmp_path, "llama") == []
    assert notes(tmp_path, "bloom", backend="vllm") == []
    assert notes(tmp_path, "t5") == []


def test_the_figure_is_what_was_measured():
    results = Path(__file__).parents[4] / "benchmarks" / "results" / "generation_NVIDIA-H100-80GB-HBM3_20261122.md"
    rates = {}
    for line in results.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 4 and cells[4].replace(",", "").isdigit():
            rates.setdefault(cells[2], int(cells[4].replace(",", "")))
    assert round(rates["vllm"] / rates["transformers, padded `generate`, first 64 rows"]) == TIMES
