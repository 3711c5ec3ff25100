"""A class that forgets something under transformers' sdpa is found at load, and runs with its eager attention."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, GenerationConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.request import GenerationRequest, SamplingParams
from tests.models import byte_tokenizer
from tests.unit.workers.packed.packed_families import tiny_model

torch.set_num_threads(1)
logging.getLogger("transformers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("default")
ROWS = [np.arange(10, 10 + length, dtype=np.int32) for length in (5, 20, 33)]
NUM_OUTPUTS, WINDOW = 8, 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mistral with a window that is longer than the short row of the check."""
    found = tmp_path_factory.mktemp("mistral")
    tokenizer = byte_tokenizer(chat=False)
    tiny_model("mistral", vocab_size=len(tokenizer), sliding_window=WINDOW, initializer_range=0.15).save_pretrained(
        found
    )
    tokenizer.save_pretrained(found)
    return found


def without_mask(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any) -> Any:
    """As Doge in transformers 5.17: where no padding and no window asks for a mask, none is there."""
    options["is_causal"] = False
    return sdpa_attention_forward(module, q, k, v, mask, **options)


def without_scale(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any) -> Any:
    options["scaling"] = 0.8 * options["scaling"]
    return sdpa_attention_forward(module, q, k, v, mask, **options)


@pytest.fixture(params=[without_mask, without_scale])
def faulty(request: pytest.FixtureRequest) -> Iterator[None]:
    """transformers' sdpa with something forgotten, and then as it was."""
    AttentionInterface._global_mapping["sdpa"] = request.param
    yield
    AttentionInterface._global_mapping["sdpa"] = sdpa_attention_forward


def load(folder: Path, attention: str = "auto", dtype: str = "float32") -> Engine:
    model = ModelSpec(id=str(folder), dtype=dtype, backend="transformers", attention=attention)
    return load_engine(EngineSpec(task="generate", model_path=str(folder), model=model, device="cpu"))


def generated(engine: Engine) -> list[list[int]]:
    params = SamplingParams(max_new_tokens=NUM_OUTPUTS)
    engine.add([GenerationRequest(id=i, prompt_ids=row, row=i, params=params) for i, row in enumerate(ROWS)])
    found: dict[int, list[int]] = {}
    while engine.num_unfinished:
        found |= {result.id: result.output_ids.tolist() for result in engine.step()}
    return [found[number] for number in range(len(ROWS))]


def wanted(folder: Path) -> list[list[int]]:
    """One row at a time, attention written out."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    eos_ids = Checkpoint.resolve(ModelSpec(id=str(folder))).eos_ids
    config = GenerationConfig(max_new_tokens=NUM_OUTPUTS, do_sample=False, eos_token_id=list(eos_ids), pad_token_id=0)
    outputs = []
    for row in ROWS:
        ids = torch.from_numpy(row).long()[None]
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(row) :]
        outputs.append(output[~torch.isin(output, torch.tensor(eos_ids))].tolist())
    return outputs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_whose_sdpa_forgets_something_runs_with_eager(
    folder: Path, faulty: None, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load(folder, dtype=dtype)
    assert engine.describe()["attention"] == "eager"
    assert "off its eager attention" in engine.describe()["why_eager"]
    assert "so the model runs with the eager one" in caplog.text
    if dtype == "float32":
        assert generated(engine) == wanted(folder)


def test_a_job_that_names_sdpa_gets_it_and_is_told(
    folder: Path, faulty: None, caplog: pytest.LogCaptureFixture
) -> None:
    said = load(folder, "sdpa").describe()
    assert said["attention"] == "sdpa"
    assert "off its eager attention" in said["sdpa_differs"]
    assert "leave model.attention out" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_two_agree_where_nothing_is_forgotten(folder: Path, dtype: str) -> None:
    said = load(folder, dtype=dtype).describe()
    assert said["attention"] == "sdpa"
    assert not said.keys() & {"why_eager", "sdpa_differs"}
