"""Each quantization, attention and back end on a tiny model: it generates, or is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("transformers", reason="the torch extra is not installed")

from schemas.errors import (
    ModelNotFoundError,
    ModelTooLargeError,
    ParquetryError,
    UnsupportedAttentionError,
    UnsupportedQuantizationError,
)
from schemas.job import ModelSpec
from tests.unit.loading.spec_cases import engine_spec
from workers.backends import load_engine
from workers.loading.quantization import RECIPES
from workers.request import GenerationRequest, SamplingParams

#: combinations a CPU refuses, and with what
REFUSED = {"fp8": UnsupportedQuantizationError, "sdpa-cudnn": UnsupportedAttentionError}


def generate(engine, count: int = 3) -> dict[int, list[int]]:
    params = SamplingParams(max_new_tokens=4)
    prompts = [np.arange(5, 11 + 2 * i, dtype=np.int32) for i in range(count)]
    engine.add([GenerationRequest(id=i, row=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
    results = []
    while engine.num_unfinished:
        results += engine.step()
    assert all(result.error is None for result in results)
    return {result.id: result.output_ids.tolist() for result in results}


def refusal(backend: str, quantization: str, attention: str) -> type[ParquetryError] | None:
    is_foreign = backend == "packed" and attention == "eager"
    return REFUSED.get(quantization) or (UnsupportedAttentionError if is_foreign else REFUSED.get(attention))


@pytest.mark.parametrize("backend", ["packed", "transformers"])
@pytest.mark.parametrize("attention", ["auto", "eager", "sdpa-math", "sdpa-cudnn"])
@pytest.mark.parametrize("quantization", ["none", *sorted(RECIPES)])
def test_a_cell(wide_lm: Path, backend: str, quantization: str, attention: str) -> None:
    if quantization in RECIPES and quantization != "fp8":
        pytest.importorskip(RECIPES[quantization].package)
    spec = engine_spec(wide_lm, backend=backend, quantization=quantization, attention=attention)
    error = refusal(backend, quantization, attention)
    if error is None:
        engine = load_engine(spec)
        assert engine.describe()["backend"] == backend
        assert all(len(ids) <= 4 for ids in generate(engine).values())
        return
    with pytest.raises(error) as caught:
        load_engine(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "int8-weight-only"])
def test_quantized_rows_do_not_depend_on_their_batch(wide_lm: Path, quantization: str) -> None:
    pytest.importorskip(RECIPES[quantization].package)
    engine = load_engine(engine_spec(wide_lm, backend="packed", quantization=quantization))
    together = generate(engine, count=6)
    for row, ids in generate(engine, count=2).items():
        assert ids == together[row]


@pytest.mark.parametrize("quantization", sorted(set(RECIPES) - {"fp8"}))
def test_linear_layers_are_quantized_and_the_head_is_not(wide_lm: Path, quantization: str) -> None:
    pytest.importorskip(RECIPES[quantization].package)
    import torch

    from workers.loading.footprint import loaded_bytes
    from workers.loading.tensor_headers import read_headers

    model = load_engine(engine_spec(wide_lm, backend="packed", quantization=quantization)).model
    assert type(model.lm_head.weight.data) is torch.Tensor
    assert type(model.model.layers[0].mlp.up_proj.weight) is not torch.nn.Parameter
    expected = loaded_bytes(read_headers([wide_lm / "model.safetensors"]), dtype="bfloat16", quantization=quantization)
    assert expected < 0.95 * loaded_bytes(read_headers([wide_lm / "model.safetensors"]), dtype="bfloat16")


def test_a_threshold_of_outliers_is_served_padded(wide_lm: Path) -> None:
    pytest.importorskip("bitsandbytes")
    engine = load_engine(engine_spec(wide_lm, quantization="int8", int8_threshold=5.0))
    assert engine.describe()["backend"] == "transformers"
    assert "int8_threshold is 5" in engine.describe()["why_not_packed"]
    assert engine._model.model.layers[0].mlp.up_proj.state.threshold == 5.0


def test_a_memory_limit_that_cannot_hold_the_model_is_refused_before_loading(causal_lm: Path) -> None:
    with pytest.raises(ModelTooLargeError, match="are missing"):
        load_engine(engine_spec(causal_lm, max_memory={"cpu": "10KB"}))


def test_a_head_of_random_numbers_is_refused(embedder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"lack .* such as classifier"):
        load_engine(engine_spec(embedder, task="classify"))


def test_submitting_refuses_what_no_worker_could_load(causal_lm: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from producers.validation import validate
    from schemas.errors import GrammarError
    from schemas.job import JobSpec

    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in.parquet")

    def spec(**sections: object) -> JobSpec:
        base = {
            "task": "generate",
            "input": {"path": str(tmp_path / "in.parquet")},
            "output": {"path": str(tmp_path / "out")},
            "model": {"id": str(causal_lm)},
            "prompt": {"template": "{{ text }}", "chat": False},
            "generation": {"max_new_tokens": 8},
        }
        return JobSpec.parse({**base, **sections})

    validate(spec())
    model = ModelSpec(id=str(causal_lm)).model_dump()
    with pytest.raises(ModelTooLargeError):
        validate(spec(model={**model, "max_memory": {"0": "10KB"}}))
    with pytest.raises(UnsupportedAttentionError):
        validate(spec(model={**model, "dtype": "float32", "attention": "flash_attention_2"}))
    pytest.importorskip("llguidance")
    with pytest.raises(GrammarError):
        validate(spec(generation={"json_schema": {"type": "strin"}}))
