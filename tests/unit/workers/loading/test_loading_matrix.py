"""Each quantization, attention and back end on a tiny model: it generates, or is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from parquetry.schemas.errors import (
    BadInputError,
    ModelTooLargeError,
    OtherWeightsError,
    UnsupportedAttentionError,
    UnsupportedOptionError,
    UnsupportedQuantizationError,
    UnusableModelError,
)
from parquetry.schemas.spec.job import Attention, ModelSpec, Quantization
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import OTHER_RUNTIMES, EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.hosting.model_host import ModelHost
from parquetry.workers.loading.attention_choice import PACKED_ONLY, PADDED_ONLY
from parquetry.workers.loading.model import load_model
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.quantization import RECIPES
from parquetry.workers.request import EncodeRequest, GenerationRequest, SamplingParams
from tests.unit.workers.loading.spec_cases import engine_spec

QUANTIZATIONS = get_args(Quantization)
ATTENTIONS = get_args(Attention)
#: auto is one of the other two, whatever the quantization
CELLS = [
    *product(QUANTIZATIONS, ATTENTIONS, ("packed", "transformers")),
    *product(("none",), ATTENTIONS, ("auto",)),
]
#: choices that need a card, and what is said of them on a CPU
NEEDS_CARD = {
    "sdpa-efficient": "the kernel needs a CUDA card",
    "sdpa-cudnn": "the kernel needs a CUDA card",
    "flash_attention_2": "needs a CUDA card of compute capability 8.0",
    "flash_attention_3": "needs a card of compute capability 9.0",
    "triton": "needs a CUDA card",
}
#: choices that the other back end has
FOREIGN = {"packed": PADDED_ONLY, "transformers": PACKED_ONLY}


def generate(engine, count: int = 3) -> dict[int, list[int]]:
    params = SamplingParams(max_new_tokens=4)
    prompts = [np.arange(5, 11 + 2 * i, dtype=np.int32) for i in range(count)]
    engine.add([GenerationRequest(id=i, row=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
    results = []
    while engine.num_unfinished:
        results += engine.step()
    assert all(result.error is None for result in results)
    return {result.id: result.output_ids.tolist() for result in results}


def refusal(backend: str, quantization: str, attention: str) -> str | None:
    """What a CPU says to a combination, None where it serves it."""
    if quantization == "fp8":
        return r"compute capability 8\.9"
    if attention in FOREIGN.get(backend, ()):
        return f"model.backend is {backend}, which does not have it"
    return NEEDS_CARD.get(attention)


@pytest.fixture(scope="module")
def build() -> Callable[[EngineSpec], Engine]:
    """Engines of specs; those that can stand on weights that are loaded already do, as in an engine process."""
    hosts: dict[str, ModelHost] = {}

    def build(spec: EngineSpec) -> Engine:
        try:
            return hosts.setdefault(spec.weights_key, ModelHost(lambda: None)).build(spec)
        except OtherWeightsError:
            hosts[spec.weights_key] = ModelHost(lambda: None)
            return hosts[spec.weights_key].build(spec)

    return build


def check_refused(build: Callable[[EngineSpec], Engine], spec: EngineSpec, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        build(spec)
    assert "\n" not in str(caught.value)


def require_maker(quantization: str) -> None:
    if quantization in RECIPES and quantization != "fp8":
        pytest.importorskip(RECIPES[quantization].package)


@pytest.mark.parametrize(("quantization", "attention", "backend"), CELLS)
def test_a_generating_cell(wide_lm: Path, build, backend: str, quantization: str, attention: str) -> None:
    require_maker(quantization)
    spec = engine_spec(wide_lm, backend=backend, quantization=quantization, attention=attention)
    if reason := refusal(backend, quantization, attention):
        check_refused(build, spec, reason)
        return
    engine = build(spec)
    is_packed = backend == "packed" or (backend == "auto" and attention != "eager")
    about = engine.describe()
    assert about["backend"] == ("packed" if is_packed else "transformers")
    assert about["attention"] == ("sdpa" if is_packed or attention == "auto" else attention)
    assert all(len(ids) <= 4 for ids in generate(engine).values())


@pytest.mark.parametrize(("quantization", "attention", "backend"), CELLS)
def test_an_encoding_cell(wide_embedder: Path, build, backend: str, quantization: str, attention: str) -> None:
    require_maker(quantization)
    spec = engine_spec(wide_embedder, task="embed", backend=backend, quantization=quantization, attention=attention)
    reason = refusal(backend, quantization, attention)
    if backend == "packed" and attention == "sdpa-math":
        reason = reason or "it has no attention sdpa-math"
    if reason:
        check_refused(build, spec, reason)
        return
    engine = build(spec)
    assert engine.describe()["backend"] == ("packed" if backend == "packed" else "transformers")
    engine.add([EncodeRequest(id=1, token_ids=np.arange(5, 12, dtype=np.int32))])
    (result,) = engine.step()
    assert result.error is None and abs(np.linalg.norm(result.values) - 1) < 1e-3


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("backend", ["onnxruntime", "optimum"])
def test_an_onnx_cell(embedder: Path, backend: str, quantization: str, attention: str) -> None:
    """At submit: what it serves is computed in the tests of its own."""
    model = engine_spec(embedder, task="embed", backend=backend, quantization=quantization, attention=attention).model
    needs = LoadingNeeds(model, Checkpoint.resolve(model))
    if attention != "auto":
        with pytest.raises(UnsupportedAttentionError, match="have attention of their own"):
            needs.check()
    elif quantization not in OTHER_RUNTIMES[backend]:
        with pytest.raises(UnsupportedQuantizationError, match=f"model.backend {backend} has none"):
            needs.check()
    else:
        needs.check()


@pytest.mark.parametrize("backend", ["onnxruntime", "optimum"])
def test_onnx_back_ends_merge_no_adapter(embedder: Path, backend: str) -> None:
    model = engine_spec(embedder, task="embed", backend=backend, adapter="somewhere").model
    with pytest.raises(UnsupportedOptionError, match="reads the model's own weights"):
        LoadingNeeds(model, Checkpoint.resolve(model)).check()


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

    from parquetry.workers.checkpoint.tensor_headers import read_headers
    from parquetry.workers.loading.quantization.footprint import loaded_bytes

    model = load_engine(engine_spec(wide_lm, backend="packed", quantization=quantization)).model
    assert type(model.lm_head.weight.data) is torch.Tensor
    assert type(model.model.layers[0].mlp.up_proj.weight) is not torch.nn.Parameter
    expected = loaded_bytes(read_headers([wide_lm / "model.safetensors"]), dtype="bfloat16", quantization=quantization)
    assert expected < 0.95 * loaded_bytes(read_headers([wide_lm / "model.safetensors"]), dtype="bfloat16")


def test_a_threshold_of_outliers_is_served_padded(wide_lm: Path) -> None:
    engine = load_engine(engine_spec(wide_lm, quantization="int8", int8_threshold=5.0))
    assert engine.describe()["backend"] == "transformers"
    assert "int8_threshold is 5" in engine.describe()["why_not_packed"]


def test_a_threshold_of_outliers_reaches_the_layers(wide_lm: Path) -> None:
    from transformers import AutoModelForCausalLM

    spec = engine_spec(wide_lm, quantization="int8", int8_threshold=5.0)
    model = load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)
    assert model.model.layers[0].mlp.up_proj.state.threshold == 5.0


def test_a_memory_limit_that_cannot_hold_the_model_is_refused_before_loading(causal_lm: Path) -> None:
    with pytest.raises(ModelTooLargeError, match="are missing"):
        load_engine(engine_spec(causal_lm, max_memory={"cpu": "10KB"}))


def test_a_head_of_random_numbers_is_refused(embedder: Path) -> None:
    with pytest.raises(UnusableModelError, match=r"lack .* such as classifier"):
        load_engine(engine_spec(embedder, task="classify"))


def test_submitting_refuses_what_no_worker_could_load(causal_lm: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from parquetry.producers.validation import validate
    from parquetry.schemas.errors import GrammarError
    from parquetry.schemas.spec.job import JobSpec

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
    with pytest.raises(GrammarError):
        validate(spec(generation={"json_schema": {"type": "strin"}}))
