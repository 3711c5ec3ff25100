"""Known rows tell a wrong file from a rounded one, by what rounding to the file's precision does to this very model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.checks.eight_bits import in_eight_bits, rounded_tensor, rounded_weight
from parquetry.workers.checks.prompts import TEXTS
from parquetry.workers.checks.rounding import rounded_otherwise
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.torch_answers import known_rows
from tests.models import byte_tokenizer
from tests.unit.workers.checks.planted_faults import LAYERS
from tests.unit.workers.encoding.encoder_families import tiny_model

torch.set_num_threads(1)
SPECS = {
    "float32": ExportSpec(task="classify"),
    "float16": ExportSpec(task="classify", dtype="float16"),
    "int8": ExportSpec(task="classify", quantization="int8", weight_bits=8),
}
#: of some models 8 bits change as much as this, and then it cannot be seen
HIDDEN_BY_INT8 = {"scaled_layer"}


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """Labels every token: the fault of a single one is then in its own values."""
    return tiny_model(request.param, per_token=True, vocab_size=len(byte_tokenizer(chat=False)))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(chat=False).backend_tokenizer


@torch.inference_mode()
def values(model: PreTrainedModel, known: KnownRows) -> np.ndarray:
    rows = [torch.from_numpy(request.token_ids).long()[None] for request in known.requests]
    return torch.cat([model(input_ids=row).logits[0] for row in rows]).numpy()


def rounded(model: PreTrainedModel, precision: str):
    """As an export of this precision computes, with other roundings than those that the noise was drawn from."""
    if precision == "int8":
        return in_eight_bits(model, 8)
    return rounded_otherwise(model, 99, torch.finfo(torch.float16 if precision == "float16" else torch.float32).eps)


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    return model.base_model.encoder.layer if hasattr(model.base_model, "encoder") else model.base_model.layers


@pytest.mark.parametrize("precision", SPECS)
@pytest.mark.parametrize("fault", [None, *LAYERS], ids=lambda fault: fault.__name__ if fault else "right")
def test_faults_are_told_from_rounding(
    model: PreTrainedModel, tokenizer, precision: str, fault: Callable[..., object] | None
) -> None:
    if precision == "int8" and fault is not None and fault.__name__ in HIDDEN_BY_INT8:
        pytest.skip("8 bits may change the model as much")
    known = known_rows(model, SPECS[precision], tokenizer, 60)
    with rounded(model, precision), fault(layers_of(model)) if fault else nullcontext():
        found = values(model, known)
    with pytest.raises(EngineRefusedError, match="times what its precision costs") if fault else nullcontext():
        known.check(found)


def test_rows_are_ordinary_text_in_the_models_own_tokens(model: PreTrainedModel, tokenizer) -> None:
    known = known_rows(model, SPECS["float32"], tokenizer, 60)
    assert [len(request.token_ids) for request in known.requests] == [40, 17, 7]
    for request, text in zip(known.requests, TEXTS, strict=True):
        assert request.token_ids.tolist() == tokenizer.encode(text).ids[: len(request.token_ids)]


def test_weights_are_as_they_were_when_eight_bits_are_over(model: PreTrainedModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with in_eight_bits(model, 8):
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (7, 63)])
def test_weights_are_rounded_by_output_and_what_they_meet_by_tensor(bits: int, steps: int) -> None:
    weight = torch.tensor([[1.0, 0.3, -0.5], [10.0, 0.04, 0.0]])
    torch.testing.assert_close(rounded_weight(weight, bits)[:, 0], weight[:, 0])
    assert (rounded_weight(weight, bits) - weight).abs().max() <= 10.0 / steps / 2 + 1e-6
    tensor = torch.linspace(-1.0, 3.0, 1000)
    assert len(rounded_tensor(tensor).unique()) <= 256
    assert (rounded_tensor(tensor) - tensor).abs().max() <= 4 / 255 / 2 + 1e-6
