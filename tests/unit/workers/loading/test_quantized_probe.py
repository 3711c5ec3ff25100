"""The packed engine's own check on quantized models: rounding passes, confused sequences do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.loading.model import load_model
from parquetry.workers.packed.checks.hooked_layers import (
    PROBE_LENS,
    LayerRecorder,
    UnsupportedModel,
    check_logits,
    eager_logits,
    packed_logits,
    probe_ids,
)
from tests.unit.workers.loading.spec_cases import engine_spec


@pytest.fixture(scope="module", params=["int8", "nf4"])
def model(request: pytest.FixtureRequest, wide_lm: Path) -> torch.nn.Module:
    spec = engine_spec(wide_lm, quantization=request.param)
    return load_model(spec, Checkpoint.resolve(spec.model), AutoModelForCausalLM)


@pytest.mark.parametrize(("lengths", "is_right"), [(PROBE_LENS, True), ((19,), False), ((8, 11), False)])
def test_confused_sequences_are_found(model: torch.nn.Module, lengths: tuple[int, ...], is_right: bool) -> None:
    ids = probe_ids(model)
    want, got = torch.cat(eager_logits(model, ids)), packed_logits(model, ids, LayerRecorder(lengths))
    if is_right:
        check_logits(model, got, want, "packed logits differ")
        return
    with pytest.raises(UnsupportedModel, match="differ"):
        check_logits(model, got, want, "packed logits differ")
