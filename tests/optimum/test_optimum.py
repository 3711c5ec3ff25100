"""Optimum as a back end, in its own environment: the conformance rows against the torch model of transformers 4."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optimum.onnxruntime", reason="the optimum extra is not installed; run make test-optimum")

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.encoding.onnx.optimum import load_optimum
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import EncodeRequest
from tests.models import write_classifier, write_embedder, write_token_classifier
from tests.unit.workers.encoding.conformance import BROKEN, answers, rows

pytestmark = pytest.mark.filterwarnings("default")
MAKERS = {"classify": write_classifier, "embed": write_embedder}


def spec_of(folder: Path, task: str, **model: object) -> EngineSpec:
    options = ModelSpec(id=str(folder), backend="optimum", **model)
    return EngineSpec(task=task, model_path=str(folder), model=options, token_budget=128)


def engine_of(folder: Path, task: str, **model: object):
    return load_optimum(spec_of(folder, task, **model))


def own_values(folder: Path, task: str, request) -> np.ndarray:
    """Softmaxed logits, or the mean of the hidden states at length one, of a row alone in torch."""
    kind = AutoModel if task == "embed" else AutoModelForSequenceClassification
    ids = torch.from_numpy(request.token_ids).long()[None]
    types = None if request.token_type_ids is None else torch.from_numpy(request.token_type_ids).long()[None]
    with torch.inference_mode():
        out = kind.from_pretrained(folder).eval()(input_ids=ids, token_type_ids=types)
    if task == "classify":
        return out.logits.softmax(-1)[0].numpy()
    return torch.nn.functional.normalize(out.last_hidden_state.mean(1), dim=-1)[0].numpy()


@pytest.mark.parametrize("task", MAKERS)
def test_answers_and_error_rows(task, tmp_path):
    folder = MAKERS[task](tmp_path / task)
    window = 32 if task == "embed" else 64
    requests = rows(window, json.loads((folder / "config.json").read_text())["vocab_size"])
    found = answers(engine_of(folder, task), requests)
    assert {number for number, result in found.items() if result.error} == BROKEN
    for request in (request for request in requests if request.id not in BROKEN):
        np.testing.assert_allclose(found[request.id].values, own_values(folder, task, request), atol=1e-4)


def test_quantization_is_refused(tmp_path):
    with pytest.raises(UnsupportedOptionError, match="onnxruntime"):
        engine_of(write_classifier(tmp_path / "model"), "classify", quantization="int8")


def test_a_provider_that_is_not_there_is_refused(tmp_path):
    spec = spec_of(write_classifier(tmp_path / "model"), "classify").model_copy(update={"device": "cuda:0"})
    with pytest.raises(UnsupportedOptionError, match="provider cuda"):
        load_optimum(spec)


def test_labels_of_tokens(tmp_path):
    folder = write_token_classifier(tmp_path / "entities")
    tokens = np.array([5, 9, 7, 30, 12], np.int32)
    requests = [EncodeRequest(id=0, token_ids=tokens), EncodeRequest(id=1, token_ids=tokens[:2])]
    found = answers(engine_of(folder, "classify"), requests)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    for request in requests:
        with torch.inference_mode():
            best = model(torch.from_numpy(request.token_ids).long()[None]).logits[0].softmax(-1).max(-1)
        expected = torch.stack([best.indices.float(), best.values], -1).flatten()
        np.testing.assert_allclose(found[request.id].values, expected, atol=1e-4)


def test_dense_layers_and_fewer_dimensions(tmp_path):
    folder = write_embedder(tmp_path / "dense", pooling="cls+mean", dense=[(24, "torch.nn.modules.activation.Tanh")])
    request = EncodeRequest(id=0, token_ids=np.array([5, 9, 7], np.int32))
    whole, cut = (
        load_optimum(spec_of(folder, "embed").model_copy(update={"pooling": "auto", "dimensions": number}))
        for number in (None, 10)
    )
    assert (whole.describe()["embedding_dim"], cut.describe()["embedding_dim"]) == ("24", "10")
    vector = answers(whole, [request])[0].values[:10]
    np.testing.assert_allclose(answers(cut, [request])[0].values, vector / np.linalg.norm(vector), atol=1e-5)
