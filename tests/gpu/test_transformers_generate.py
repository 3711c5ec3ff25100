"""Encoder-decoders and vision-language models on a CUDA card, in bfloat16, against eager generate row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoModelForSeq2SeqLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import Completion, GenerationRequest, Request, SamplingParams, VisionRequest
from tests.vision_models import PLACEHOLDERS, VISION_FAMILIES, write_vision_lm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
TEXTS = ["a table", "the quick brown fox jumps over the lazy dog", "good bad fine great", "a"]
NUM_TOKENS = 12
#: part of the spread of a step's logits by which bfloat16 may misjudge one
TIE = 0.06


def load(folder: Path, *, images: bool = False) -> Engine:
    model = ModelSpec(id=str(folder), dtype="bfloat16")
    return load_engine(EngineSpec(task="generate", model_path=str(folder), model=model, images=images, device="cuda:0"))


def complete(engine: Engine, requests: list[Request]) -> list[Completion]:
    engine.add(requests)
    results: list[Completion] = []
    while engine.num_unfinished:
        results += engine.step()
    return sorted(results, key=lambda result: result.id)


def require_same_but_for_ties(found: np.ndarray, output: object, prefix: int) -> None:
    """The tokens of eager generate, up to the first token where it wavered itself."""
    expected = output.sequences[0, prefix:].tolist()
    for step, (mine, theirs) in enumerate(zip(found.tolist(), expected, strict=False)):
        if mine == theirs:
            continue
        scores = output.scores[step][0].float()
        scores = scores[scores.isfinite()]
        missing = scores.max() - output.scores[step][0, mine].float()
        assert missing < TIE * (scores.max() - scores.min()), f"step {step}: {mine} instead of {theirs}"
        return


def eager(auto_class: type, folder: Path) -> torch.nn.Module:
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    model = auto_class.from_pretrained(folder, **options).to("cuda").eval()
    model.generation_config.forced_eos_token_id = None
    return model


def generated(model: torch.nn.Module, inputs: dict, num_tokens: int) -> object:
    options = {"do_sample": False, "num_beams": 1, "return_dict_in_generate": True, "output_scores": True}
    return model.generate(**inputs, max_new_tokens=num_tokens, **options)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_encoder_decoders_equal_eager_generate(tmp_path, family):
    from tests.models import write_seq2seq

    folder = write_seq2seq(tmp_path / family, family)
    encoded = Tokenizer.load(folder).encode(TEXTS, special_tokens=True, limit=64, truncate="error")
    params = SamplingParams(max_new_tokens=NUM_TOKENS)
    requests = [GenerationRequest(id=i, prompt_ids=row.ids, params=params) for i, row in enumerate(encoded)]

    found = complete(load(folder), requests)

    model = eager(AutoModelForSeq2SeqLM, folder)
    given = 1 + (model.generation_config.forced_bos_token_id is not None)
    for request, result in zip(requests, found, strict=True):
        assert result.error is None
        ids = torch.from_numpy(request.prompt_ids.astype(np.int64))[None].cuda()
        output = generated(model, {"input_ids": ids}, NUM_TOKENS + given - 1)
        # scores begin with the token that is forced
        output.scores = output.scores[given - 1 :]
        require_same_but_for_ties(result.output_ids, output, given)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_vision_models_equal_eager_generate(tmp_path, family):
    from parquetry.workers.vision.decoding import decode
    from parquetry.workers.vision.processor import load_processor
    from tests.unit.workers.preparation.images.images import png

    folder = write_vision_lm(tmp_path / family, family)
    placeholder = PLACEHOLDERS.get(family, "<image>")
    files = [png(20, 30), png(40, 33, 1), png(30, 90, 2), png(64, 64, 3)]
    params = SamplingParams(max_new_tokens=NUM_TOKENS)
    requests: list[Request] = [
        VisionRequest(id=i, text=placeholder + text, images=(file,), params=params)
        for i, (text, file) in enumerate(zip(TEXTS, files, strict=True))
    ]

    found = complete(load(folder, images=True), requests)

    model = eager(AutoModelForImageTextToText, folder)
    processor = load_processor(Checkpoint.resolve(ModelSpec(id=str(folder))))
    for request, result in zip(requests, found, strict=True):
        assert result.error is None
        images = [decode(content, max_pixels=10**6) for content in request.images]
        inputs = processor(text=[request.text], images=[images], return_tensors="pt").to("cuda", torch.bfloat16)
        assert result.num_prompt_tokens == inputs["input_ids"].shape[1]
        require_same_but_for_ties(result.output_ids, generated(model, inputs, NUM_TOKENS), result.num_prompt_tokens)
