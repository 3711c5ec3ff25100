"""The load check finds every planted fault, and none where there is none: shallow and deep, plain and quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.loading.model import load_model
from parquetry.workers.packed.attention.kv_cache import attach_caches
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from tests.unit.workers.checks.planted_faults import FAULTS, planted
from tests.unit.workers.loading.spec_cases import engine_spec
from tests.unit.workers.packed.packed_families import tiny_model


def judge(engine: PackedEngine, fault: str | None) -> str | None:
    """What the check says of the packed model with a fault, None where it finds nothing."""
    (check,) = engine.components.checks
    size = engine.pool.block_size
    attach_caches(engine.components.layers, check.num_blocks(size), size, engine.device)
    try:
        with planted(fault or "", engine.runner.forward, check.layers):
            check.require(engine.runner.forward, "differs")
    except UnsupportedModel as error:
        return str(error)
    return None


def engine_of(model: nn.Module) -> PackedEngine:
    return PackedEngine(model, None, (), PackedOptions(num_blocks=32, block_size=16))


DEEP = {"num_hidden_layers": 40}
MODELS = {
    "llama-float32": lambda: tiny_model("llama"),
    "llama-bfloat16": lambda: tiny_model("llama").to(torch.bfloat16),
    "llama-float16": lambda: tiny_model("llama").to(torch.float16),
    "deep-bfloat16": lambda: tiny_model("llama", **DEEP).to(torch.bfloat16),
    "mistral-bfloat16": lambda: tiny_model("mistral").to(torch.bfloat16),
    "gemma2-bfloat16": lambda: tiny_model("gemma2").to(torch.bfloat16),
    "mixtral-bfloat16": lambda: tiny_model("mixtral").to(torch.bfloat16),
}


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest) -> PackedEngine:
    return engine_of(MODELS[request.param]())


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_faults_are_found_and_right_layers_pass(engine: PackedEngine, fault: str | None) -> None:
    assert (judge(engine, fault) is not None) == (fault is not None)


@pytest.fixture(scope="module", params=["int8", "nf4", "int8-weight-only"])
def quantized(request: pytest.FixtureRequest, wide_lm: Path) -> PackedEngine:
    spec = engine_spec(wide_lm, quantization=request.param)
    return engine_of(load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM))


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_quantized_layers_hide_no_fault(quantized: PackedEngine, fault: str | None) -> None:
    assert (judge(quantized, fault) is not None) == (fault is not None)


def test_the_message_says_which_layer_and_by_how_much(engine: PackedEngine) -> None:
    said = judge(engine, "missing_residual")
    layers = len(engine.components.checks[0].layers)
    assert said is not None and said.startswith(f"differs: layer {layers // 2 + 1} of {layers} is off by ")
    assert "times its stock form's noise" in said
