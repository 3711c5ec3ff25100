"""Both generators against transformers' own generate, with every sampling key at once and the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.noise import gumbel_noise, request_key
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import Completion, GenerationRequest, SamplingParams

LENGTH = 24
TEXTS = ["<s>hello hello", "<s>the quick brown fox jumps over the lazy dog", "<s>a", "<s>0123456789 0123456789"]
#: transformers knows no presence and frequency penalty; the rest is given to its generate
CASES = [
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 0.8},
    {"frequency_penalty": -0.3},
    {"repetition_penalty": 1.3, "presence_penalty": -0.4, "frequency_penalty": 0.6},
    {"temperature": 1.3, "min_p": 0.4},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.85, "min_p": 0.2},
    {
        "temperature": 1.2,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
    },
]


class OutputPenalty(LogitsProcessor):
    """Presence and frequency penalty as OpenAI's and vLLM's documentation write them, token by token."""

    def __init__(self, num_prompt_tokens: int, presence: float, frequency: float) -> None:
        self.start, self.presence, self.frequency = num_prompt_tokens, presence, frequency

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        outputs = input_ids[0, self.start :].tolist()
        for token in set(outputs):
            scores[0, token] -= self.presence + self.frequency * outputs.count(token)
        return scores


@pytest.fixture(scope="module")
def prompts(causal_lm: Path) -> list[np.ndarray]:
    encoded = Tokenizer.load(causal_lm).encode(TEXTS, special_tokens=False, limit=200, truncate="error")
    return [tokens.ids for tokens in encoded]


@pytest.fixture(scope="module")
def reference(causal_lm: Path):
    return AutoModelForCausalLM.from_pretrained(causal_lm).eval()


def by_transformers(model, ids: np.ndarray, row: int, params: SamplingParams, monkeypatch) -> list[int]:
    """What generate writes when it draws with the noise of our requests."""
    keys = torch.tensor([request_key(params.seed, row, 0)])
    position = iter(range(len(ids), 10**6))

    def draw(probabilities: Tensor, num_samples: int) -> Tensor:
        noise = gumbel_noise(keys, torch.tensor([next(position)]), probabilities.shape[-1])
        return (probabilities.log() + noise).argmax(-1, keepdim=True)

    options = {"do_sample": False}
    if params.temperature:
        options = {
            "do_sample": True,
            **{name: getattr(params, name) for name in ("temperature", "top_k", "top_p", "min_p")},
        }
    inputs = torch.from_numpy(ids.astype(np.int64))[None]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "multinomial", draw)
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=LENGTH,
            repetition_penalty=params.repetition_penalty,
            logits_processor=LogitsProcessorList(
                [OutputPenalty(len(ids), params.presence_penalty, params.frequency_penalty)]
            ),
            **options,
        )
    return output[0, len(ids) :].tolist()


def by_us(folder: Path, backend: str, requests: Sequence[GenerationRequest]) -> list[Completion]:
    spec = EngineSpec(task="generate", model_path=str(folder), model=ModelSpec(id=str(folder), backend=backend))
    engine, found = load_engine(spec), []
    engine.add(requests)
    while engine.num_unfinished:
        found += engine.step()
    engine.close()
    return sorted(found, key=lambda completion: completion.id)


@pytest.mark.parametrize("backend", ["packed", "transformers"])
def test_rows_of_every_kind_equal_generate_row_by_row(causal_lm, prompts, reference, backend, monkeypatch):
    """All cases share batches, so that a row with penalties stands beside one without."""
    cases = [{}, *CASES]
    requests = [
        GenerationRequest(
            id=row, row=row, prompt_ids=prompts[row % 4], params=SamplingParams(max_new_tokens=LENGTH, seed=5, **case)
        )
        for row, case in enumerate(case for case in cases for _ in range(4))
    ]

    found = by_us(causal_lm, backend, requests)

    different = 0
    for request, completion in zip(requests, found, strict=True):
        row = by_transformers(reference, request.prompt_ids, request.row, request.params, monkeypatch)
        expected = row[: row.index(3)] if 3 in row else row
        assert completion.output_ids.tolist() == expected, request.params
        assert completion.finish_reason == ("stop" if 3 in row else "length")
        different += expected != found[request.row % 4].output_ids.tolist()
    # the keys do something: hardly a row is what it is without any
    assert different > len(CASES) * 3
