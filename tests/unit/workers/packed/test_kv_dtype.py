"""A KV cache in float8: half the bytes, nearly the same numbers, refused where no cache is ours or no card has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from parquetry.schemas.errors import InvalidValueError, UnsupportedOptionError
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.workers.card import Card, cpu_card
from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.needs import _check_kv_backend, check_kv_dtype
from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.kv_cache import stored_as
from parquetry.workers.packed.attention.sdpa import SdpaBackend, to_stored
from parquetry.workers.packed.checks.kv_check import require_stored
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.packed.packed_families import make_prompts, make_requests, run_all, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def engine() -> PackedEngine:
    model = tiny_model("llama").to(torch.bfloat16)
    return PackedEngine(model, None, (), PackedOptions(num_blocks=64, block_size=8, kv_dtype="fp8"))


def test_rows_are_computed_on_caches_of_half_the_bytes(engine: PackedEngine) -> None:
    layer = engine.components.layers[0]
    assert layer.module.packed_keys.dtype == layer.module.packed_values.dtype == torch.float8_e4m3fn
    done = run_all(engine, make_requests(make_prompts(3, 17, 40), max_new_tokens=8))
    assert [len(completion.output_ids) for completion in done.values()] == [8, 8, 8]
    assert engine.describe()["kv_dtype"] == "fp8"


def test_a_token_takes_half_the_bytes(engine: PackedEngine) -> None:
    layers = engine.components.layers
    narrow, wide = stored_as(layers, "fp8"), stored_as(layers, "auto")
    assert [2 * layer.bytes_per_token for layer in narrow] == [layer.bytes_per_token for layer in wide]


def test_what_float8_cannot_hold_is_its_largest_number() -> None:
    kept = to_stored(torch.tensor([-1e4, 0.5, 1e4]), torch.float8_e4m3fn)
    assert kept.float().tolist() == [-448.0, 0.5, 448.0]


class ForgetfulBackend(SdpaBackend):
    """Reads caches in float8 as if they were half as large."""

    def prefill(self, call: AttentionCall) -> torch.Tensor:
        out = super().prefill(call)
        return out / 2 if call.k_cache.dtype.itemsize == 1 else out


def test_a_backend_that_reads_float8_wrong_is_refused(engine: PackedEngine) -> None:
    layers = stored_as(engine.components.layers, "fp8")
    require_stored(SdpaBackend(), layers, 8, CPU)
    with pytest.raises(UnsupportedModel, match="a cache in float8 gives other results"):
        require_stored(ForgetfulBackend(), layers, 8, CPU)


def test_a_card_without_float8_is_refused_before_weights_are_read() -> None:
    model = ModelSpec(id="m", kv_dtype="fp8")
    ampere = Card("cuda", "NVIDIA A100", (8, 0), 80 << 30)
    with pytest.raises(UnsupportedOptionError, match=r"model\.kv_dtype fp8 is not supported: float8 needs a card"):
        check_kv_dtype(model, ampere)
    check_kv_dtype(model, replace(ampere, capability=(8, 9)))
    check_kv_dtype(model, cpu_card())


@pytest.mark.parametrize("backend", ["transformers", "onnxruntime"])
def test_back_ends_with_caches_of_their_own_are_refused(backend: str) -> None:
    with pytest.raises(UnsupportedOptionError, match=rf"the cache of model\.backend {backend} is its own"):
        _check_kv_backend(ModelSpec(id="m", kv_dtype="fp8", backend=backend))


def test_a_task_that_generates_nothing_is_refused() -> None:
    data = {"task": "embed", "input": {"path": "x"}, "output": {"path": "y"}, "model": {"id": "m", "kv_dtype": "fp8"}}
    with pytest.raises(InvalidValueError, match=r"model\.kv_dtype is of task generate"):
        JobSpec.parse(data)


def test_engines_of_either_cache_share_their_weights() -> None:
    auto, fp8 = (
        EngineSpec(task="generate", model_path="m", model=ModelSpec(id="m", kv_dtype=name)) for name in ("auto", "fp8")
    )
    assert auto.weights_key == fp8.weights_key
    assert auto.key != fp8.key
