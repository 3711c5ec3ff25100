"""Every listed family packs to what its own attention gives alone; what must not pack is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.encoding.packed import families
from parquetry.workers.encoding.packed.body import PackedBody
from parquetry.workers.encoding.packed.families import FAMILIES, Family
from parquetry.workers.encoding.positions import Positions
from parquetry.workers.encoding.torch_packed import EncodeTask, PackedEncoder, unsupported_reason
from parquetry.workers.fusing.encoder_block import fuse
from parquetry.workers.request import EncodeRequest, Encoding
from tests.unit.workers.encoding.encoder_families import VOCAB, tiny_model

torch.set_num_threads(1)
logging.getLogger("transformers").setLevel(logging.ERROR)
#: families that pass for packable until their attention is looked at
MIXING = ("mpnet", "deberta-v2", "rembert", "convbert", "fnet")


def random_rows(count: int, longest: int = 60) -> list[EncodeRequest]:
    random = np.random.default_rng(0)
    sizes = random.integers(1, longest, count)
    return [EncodeRequest(id=i, token_ids=random.integers(5, VOCAB, n).astype(np.int32)) for i, n in enumerate(sizes)]


def alone(model, request: EncodeRequest) -> np.ndarray:
    """Logits, or the mean of the hidden states, of a row through the model's own attention."""
    with torch.inference_mode():
        out = model(input_ids=torch.from_numpy(request.token_ids).long()[None])
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state.mean(1))[0].numpy()


def drain(engine: PackedEncoder, requests: list[EncodeRequest]) -> dict[int, Encoding]:
    engine.add(requests)
    results = {}
    while engine.num_unfinished:
        results.update({result.id: result for result in engine.step()})
    return results


def task_of(model) -> EncodeTask:
    return EncodeTask(
        task="classify" if hasattr(model, "num_labels") and _has_head(model) else "embed", normalize=False
    )


def _has_head(model) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_packed_rows_equal_rows_alone(name):
    model = tiny_model(name)
    if _has_head(model):
        model.config.problem_type = "regression"
    requests = random_rows(12)
    expected = [alone(model, request) for request in requests]
    results = drain(PackedEncoder(model, task_of(model), token_budget=150), requests)
    for request, values in zip(requests, expected, strict=True):
        assert results[request.id].error is None
        np.testing.assert_allclose(results[request.id].values, values, rtol=1e-3, atol=1e-3 * np.abs(values).max())


def test_a_decoder_that_looks_both_ways():
    model = tiny_model("gemma3_text", use_bidirectional_attention=True).model
    requests = random_rows(9)
    expected = [alone(model, request) for request in requests]
    results = drain(PackedEncoder(model, EncodeTask(task="embed", normalize=False), token_budget=150), requests)
    for request, values in zip(requests, expected, strict=True):
        np.testing.assert_allclose(results[request.id].values, values, rtol=1e-3, atol=1e-3 * np.abs(values).max())
    first_token = PackedEncoder(model, EncodeTask(task="embed", pooling="cls", normalize=False))
    rows = [EncodeRequest(id=last, token_ids=np.array([7, 8, 9, last], np.int32)) for last in (10, 11)]
    moved = drain(first_token, rows)
    assert np.abs(moved[10].values - moved[11].values).max() > 1e-3, "the first token sees the last"


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "modernbert", "electra", "qwen3", "llama"])
def test_labels_of_packed_tokens_are_those_of_rows_alone(name):
    model = tiny_model(name, per_token=True)
    requests = random_rows(9)
    expected = [alone(model, request) for request in requests]
    results = drain(PackedEncoder(model, EncodeTask(task="classify", per_token=True), token_budget=150), requests)
    for request, logits in zip(requests, expected, strict=True):
        labels, scores = results[request.id].values.reshape(-1, 2).T
        assert labels.astype(int).tolist() == logits.argmax(-1).tolist()
        np.testing.assert_allclose(scores, torch.from_numpy(logits).softmax(-1).amax(-1), atol=1e-3)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MIXING)
def test_unlisted_families_are_refused_with_a_reason(name):
    model = tiny_model(name)
    assert name in unsupported_reason(model)
    with pytest.raises(EngineRefusedError, match="not on the list"):
        PackedEncoder(model, EncodeTask(task="classify"))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", MIXING)
def test_checks_refuse_a_family_listed_by_mistake(name, monkeypatch):
    model = tiny_model(name)
    own = model.config._attn_implementation
    monkeypatch.setitem(families.FAMILIES, name, Family())
    with pytest.raises(EngineRefusedError):
        PackedBody.checked(model)
    assert model.config._attn_implementation == own


def test_checks_refuse_positions_that_start_wrong(monkeypatch):
    monkeypatch.setattr(Positions, "of", lambda model: Positions(0, 78))
    with pytest.raises(EngineRefusedError, match="differ from rows alone"):
        PackedBody.checked(tiny_model("roberta"))


def test_checks_refuse_a_layer_that_does_not_call_the_hook():
    model = tiny_model("bert")
    model.bert.encoder.layer[1].attention = SkippedAttention()
    with pytest.raises(EngineRefusedError, match="its 2 layers called the attention hook 1 times"):
        PackedBody.checked(model)


def test_checks_refuse_a_layer_that_mixes_rows():
    model = tiny_model("bert")
    model.bert.embeddings = Smoothed(model.bert.embeddings)
    with pytest.raises(EngineRefusedError, match="layer 1 of 2 is off"):
        PackedBody.checked(model)


class SkippedAttention(torch.nn.Module):
    """Attention to nothing, by no interface."""

    def forward(self, hidden, *_args, **_options):
        return hidden, None


class Smoothed(torch.nn.Module):
    """Each token takes something of the next, whichever row that is of."""

    def __init__(self, embeddings):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, *args, **options):
        hidden = self.embeddings(*args, **options)
        return hidden + hidden.roll(-1, 1)


def test_token_dropout_is_refused():
    model = tiny_model("esm")
    model.config.token_dropout = True
    assert "token_dropout" in unsupported_reason(model)


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "albert", "distilbert"])
def test_fused_kernels_change_nothing(name):
    model = tiny_model(name)
    request = random_rows(1)[0]
    before = alone(model, request)
    assert fuse(model) > 0
    np.testing.assert_allclose(alone(model, request), before, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "max"])
def test_pooling(pooling):
    model = tiny_model("bert").bert
    requests = random_rows(7)
    expected = [_pooled(model, request, pooling) for request in requests]
    results = drain(PackedEncoder(model, EncodeTask(task="embed", pooling=pooling, normalize=False)), requests)
    for request, vector in zip(requests, expected, strict=True):
        np.testing.assert_allclose(results[request.id].values, vector, rtol=1e-3, atol=1e-4)


def _pooled(model, request: EncodeRequest, pooling: str) -> np.ndarray:
    with torch.inference_mode():
        hidden = model(input_ids=torch.from_numpy(request.token_ids).long()[None]).last_hidden_state[0]
    return {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0), "max": hidden.amax(0)}[pooling].numpy()


def test_segment_ids_reach_the_model():
    model = tiny_model("bert")
    model.config.problem_type = "regression"
    tokens = np.arange(5, 25, dtype=np.int32)
    types = (np.arange(20) >= 8).astype(np.int32)
    with torch.inference_mode():
        ids, kinds = (torch.from_numpy(x).long()[None] for x in (tokens, types))
        expected = model(input_ids=ids, token_type_ids=kinds).logits[0].numpy()
    engine = PackedEncoder(model, EncodeTask(task="classify"))
    pair = EncodeRequest(id=0, token_ids=tokens, token_type_ids=types)
    single = EncodeRequest(id=1, token_ids=tokens)
    results = drain(engine, [pair, single])
    np.testing.assert_allclose(results[0].values, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(results[1].values - expected).max() > 1e-2


def test_rows_do_not_depend_on_the_batch():
    model = tiny_model("modernbert")
    requests = random_rows(20)
    small, large = (
        drain(PackedEncoder(model, EncodeTask(task="classify"), token_budget=n), requests) for n in (70, 4096)
    )
    for request in requests:
        np.testing.assert_allclose(small[request.id].values, large[request.id].values, rtol=1e-4, atol=1e-5)
