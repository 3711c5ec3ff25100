"""What is said of a model's generation_config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.generation_defaults import generation_defaults


@pytest.fixture
def said(causal_lm: Path, tmp_path: Path):
    """The sentences for a generation_config.json and a generation section."""

    def make(own: dict, *, config: dict | None = None, **generation: object) -> list[str]:
        folder = tmp_path / "model"
        shutil.copytree(causal_lm, folder, dirs_exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(own))
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **(config or {})}))
        return generation_defaults(Checkpoint.resolve(ModelSpec(id=str(folder))), GenerationSpec(**generation))

    return make


def test_sampling_is_suggested_and_not_taken_over(said):
    qwen = {
        "do_sample": True,
        "eos_token_id": [5, 3],
        "pad_token_id": 1,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
    }
    taken, left = said(qwen)

    assert taken == "the job takes over from the model's generation_config.json: eos_token_id 5 and 3"
    assert left.startswith("the model's generation_config.json suggests temperature 0.6, top_p 0.95, top_k 20, and the")
    assert "and the job has temperature 0, top_p 1, top_k 0: outputs are greedy and repeatable" in left
    assert said(qwen, temperature=0.6, top_k=20, top_p=0.95) == [taken]
    assert "suggests top_k 20, and the job has top_k 0" in said(qwen, temperature=0.6, top_p=0.95)[1]


def test_what_transformers_would_not_heed_is_not_mentioned(said):
    assert said({"temperature": 0.6, "top_p": 0.9, "_from_model_config": True, "transformers_version": "5.0"}) == []
    assert said({}) == []


def test_sampling_without_a_temperature_is_at_one(said):
    (left,) = said({"do_sample": True})
    assert "suggests temperature 1.0, and the job has temperature 0: outputs are greedy" in left


def test_what_no_job_has_a_key_for(said):
    (sentence,) = said({"num_beams": 4, "no_repeat_ngram_size": 3, "length_penalty": 1.0, "early_stopping": False})
    assert "has num_beams 4, no_repeat_ngram_size 3, which has no key in a job" in sentence


def test_how_a_decoder_begins_counts_beside_an_encoder_alone(said):
    own = {"decoder_start_token_id": 2, "forced_bos_token_id": 0, "suppress_tokens": list(range(9))}
    (taken,) = said(own, config={"is_encoder_decoder": True})
    assert taken.endswith("decoder_start_token_id 2, forced_bos_token_id 0, suppress_tokens of 9 entries")
    (left,) = said(own, config={"is_encoder_decoder": False})
    assert "no key in a job" in left


def test_penalties_and_lengths_are_keys_of_a_job(said):
    (left,) = said({"repetition_penalty": 1.05, "max_new_tokens": 2048})
    assert "suggests repetition_penalty 1.05, max_new_tokens 2048, and the job has repetition_penalty 1, max" in left
    assert said({"repetition_penalty": 1.05}, repetition_penalty=1.05) == []
