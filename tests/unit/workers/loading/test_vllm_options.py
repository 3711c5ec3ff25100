"""What a job may ask of vLLM: every refusal names the option and what to do, and reads no weights."""

from __future__ import annotations

import json

import pytest

from parquetry.schemas.errors import (
    AdapterMismatchError,
    UnsupportedAttentionError,
    UnsupportedOptionError,
    UnsupportedQuantizationError,
)
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_needs import engine_needs
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.vllm_options import check_adapter, check_options, check_task, pooling_name


def model(**options: object) -> ModelSpec:
    return ModelSpec(id="m", backend="vllm", **options)


@pytest.mark.parametrize("options", [{}, {"quantization": "fp8"}, {"kv_dtype": "fp8"}, {"compile": False}])
def test_what_it_follows(options):
    check_options(model(**options))


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2", "triton"])
def test_attention_is_its_own(attention):
    with pytest.raises(UnsupportedAttentionError, match=rf"{attention}.*vllm chooses its kernels itself"):
        check_options(model(attention=attention))


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4", "int8-weight-only"])
def test_quantizations_that_it_does_not_make(quantization):
    with pytest.raises(UnsupportedQuantizationError, match=rf"{quantization}.*none and fp8"):
        check_options(model(quantization=quantization))


def test_memory_is_a_share_of_the_card():
    with pytest.raises(UnsupportedOptionError, match="PARQUETRY_VLLM_MEMORY_FRACTION"):
        check_options(model(max_memory={"0": "1GiB"}))


@pytest.mark.parametrize("options", [{"adapter": "a"}, {"adapters": {"x": "a"}}])
def test_adapters_are_of_generation(options):
    check_task("generate", model(**options))
    with pytest.raises(UnsupportedOptionError, match=r"model.adapters? for task embed.*set model.backend to auto"):
        check_task("embed", model(**options))


def test_poolings_by_its_names():
    assert [pooling_name(mode) for mode in ("cls", "mean", "last")] == ["CLS", "MEAN", "LAST"]
    with pytest.raises(UnsupportedOptionError, match=r"embed.pooling cls and mean.*cls, mean, last"):
        pooling_name("cls+mean")


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"r": 1024}, "rank is 1024"),
        ({"r": 8, "rank_pattern": {"q_proj": 600}}, "rank is 600"),
    ],
)
def test_adapters_that_it_cannot_keep_beside_the_weights(config, word, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, **config}))
    with pytest.raises(AdapterMismatchError, match=rf"{word}.*set model.backend to auto"):
        check_adapter(Adapter(tmp_path), Checkpoint(tmp_path, "base"))


def test_an_ordinary_adapter_is_taken(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))
    check_adapter(Adapter(tmp_path), Checkpoint(tmp_path, "base"))


def test_a_worker_needs_vllm_and_for_eight_bits_the_card():
    assert engine_needs(model()) == ("vllm",)
    assert engine_needs(model(quantization="fp8")) == ("vllm", "a CUDA card of compute capability 8.9")


def test_no_other_engine_uses_its_weights():
    def spec(**options: object) -> EngineSpec:
        return EngineSpec(task="generate", model_path="m", model=ModelSpec(id="m", **options))

    assert spec(backend="vllm").weights_key != spec().weights_key
    assert spec(backend="vllm").weights_key != spec(backend="vllm", kv_dtype="fp8").weights_key
