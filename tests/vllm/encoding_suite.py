"""What vectors, labels and scores through vLLM must be on every device: the conformance rows of the other back ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import EncodeRequest
from tests.unit.workers.encoding.conformance import BROKEN, answers, rows
from tests.vllm.models import write_classifier, write_embedder, write_token_classifier

#: by task, window and (on a card, where products are rounded otherwise) what a value may differ by
WINDOWS = {"embed": 32, "classify": 64, "score": 64}
TOLERANCES = {"cpu": 1e-4, "cuda": 5e-3}


def make(task: str, folder: Path) -> Path:
    if task == "embed":
        return write_embedder(folder)
    return write_classifier(folder, labels=["match"]) if task == "score" else write_classifier(folder)


def engine_of(folder: Path, task: str, device: str, **named: object) -> Engine:
    from parquetry.workers.vllm.loading import load_vllm

    model = ModelSpec(id=str(folder), backend="vllm", dtype="float32")
    return load_vllm(EngineSpec(task=task, model_path=str(folder), model=model, device=device, **named))


def own_values(folder: Path, task: str, request: EncodeRequest) -> np.ndarray:
    """Of a row alone in stock transformers: label scores, or the mean of the hidden states at length one."""
    kind = AutoModel if task == "embed" else AutoModelForSequenceClassification
    ids = torch.from_numpy(request.token_ids).long()[None]
    types = None if request.token_type_ids is None else torch.from_numpy(request.token_type_ids).long()[None]
    with torch.inference_mode():
        out = kind.from_pretrained(folder).eval()(input_ids=ids, token_type_ids=types)
    if task == "embed":
        return torch.nn.functional.normalize(out.last_hidden_state.mean(1), dim=-1)[0].numpy()
    return (out.logits.softmax(-1) if task == "classify" else out.logits.sigmoid())[0].numpy()


class EncodingSuite:
    device: str

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.device.partition(":")[0]]

    @pytest.mark.parametrize("task", WINDOWS)
    def test_answers_and_error_rows(self, task, tmp_path):
        folder = make(task, tmp_path / task)
        requests = rows(WINDOWS[task], json.loads((folder / "config.json").read_text())["vocab_size"])
        if task == "embed":
            # its texts have one segment
            requests = [EncodeRequest(id=r.id, token_ids=r.token_ids) for r in requests]
        engine = engine_of(folder, task, self.device)
        found = answers(engine, requests)
        assert {number for number, result in found.items() if result.error} == BROKEN
        for request in (request for request in requests if request.id not in BROKEN):
            expected = own_values(folder, task, request)
            np.testing.assert_allclose(found[request.id].values, expected, atol=self.tolerance)
        assert engine.describe()["backend"] == "vllm"
        engine.close()

    def test_labels_of_tokens(self, tmp_path):
        folder = write_token_classifier(tmp_path / "entities")
        tokens = np.array([5, 9, 7, 30, 12], np.int32)
        requests = [EncodeRequest(id=0, token_ids=tokens), EncodeRequest(id=1, token_ids=tokens[:2])]
        engine = engine_of(folder, "classify", self.device)
        found = answers(engine, requests)
        model = AutoModelForTokenClassification.from_pretrained(folder).eval()
        for request in requests:
            with torch.inference_mode():
                best = model(torch.from_numpy(request.token_ids).long()[None]).logits[0].softmax(-1).max(-1)
            expected = torch.stack([best.indices.float(), best.values], -1).flatten()
            np.testing.assert_allclose(found[request.id].values, expected, atol=self.tolerance)
        engine.close()

    def test_fewer_dimensions_are_those_of_the_whole_vector(self, tmp_path):
        folder = write_embedder(tmp_path / "short", pooling="cls")
        request = EncodeRequest(id=0, token_ids=np.array([5, 9, 7], np.int32))
        engine = engine_of(folder, "embed", self.device, pooling="auto", dimensions=10)
        assert engine.describe()["embedding_dim"] == "10"
        vector = answers(engine, [request])[0].values
        with torch.inference_mode():
            ids = torch.from_numpy(request.token_ids).long()[None]
            whole = AutoModel.from_pretrained(folder).eval()(input_ids=ids).last_hidden_state[0, 0, :10]
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(whole, dim=-1), atol=self.tolerance)
        engine.close()

    def test_a_pooling_that_vllm_lacks_is_refused(self, tmp_path):
        folder = write_embedder(tmp_path / "max", pooling="max")
        with pytest.raises(UnsupportedOptionError, match=r"embed.pooling max.*cls, mean, last"):
            engine_of(folder, "embed", self.device, pooling="auto")
