"""CrossEncoders of several modules score pairs as transformers' own logits and torch's own layers do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from parquetry.schemas import settings as settings_module
from parquetry.schemas.errors import RowError, UnsupportedOptionError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.texts import TextPreparation
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import EncodeRequest
from tests.unit.workers.encoding.modular_rerankers import (
    NO,
    TEMPLATE,
    WIDTH,
    YES,
    write_logit_reranker,
    write_pooled_reranker,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
PAIRS = [("the quick fox", "a dog"), ("ab", "the lazy dog jumps over it"), ("what is it", "what"), ("q", "d")]
BACKENDS = ["transformers", "packed"]


@pytest.fixture(autouse=True)
def export_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


def prepared(folder: Path, pairs, task: str = "score", backend: str = "auto"):
    """Tokens of the pairs as a job has them, and the job's spec."""
    columns = {"text": "query", "text_pair": "document"}
    data = {"task": task, "input": {"path": "in.parquet"}, "output": {"path": "out"}, "classify": columns}
    spec = JobSpec.parse({**data, "model": {"id": str(folder), "backend": backend, "dtype": "float32"}})
    preparation = TextPreparation(spec, Checkpoint.resolve(spec.model), Tokenizer.load(folder), datetime.now(UTC))
    queries, documents = zip(*pairs, strict=True)
    return preparation.tokens(pa.record_batch({"query": queries, "document": documents})), spec


def scores(folder: Path, backend: str, task: str = "score", pairs=PAIRS) -> tuple[np.ndarray, dict[str, str]]:
    """(num_pairs, num_labels) float32, and what the engine says of itself."""
    tokens, spec = prepared(folder, pairs, task, backend)
    engine = load_engine(EngineSpec.of(JobRecord.model_construct(spec=spec, model_path=str(folder))))
    engine.add(
        [EncodeRequest(id=number, token_ids=one.ids, token_type_ids=one.type_ids) for number, one in enumerate(tokens)]
    )
    results = {}
    while engine.num_unfinished:
        results |= {result.id: result for result in engine.step()}
    assert {result.error for result in results.values()} == {None}
    return np.stack([results[number].values for number in range(len(pairs))]), engine.describe()


@torch.inference_mode()
def logit_scores(folder: Path, rows, false_id: int | None) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits = [model(torch.from_numpy(row.ids).long()[None]).logits[0, -1] for row in rows]
    return np.array([float(row[YES] - (0 if false_id is None else row[false_id])) for row in logits])


@pytest.mark.parametrize("false_id", [NO, None])
@pytest.mark.parametrize("backend", [*BACKENDS, "onnxruntime"])
def test_a_logit_score_is_one_logit_less_the_other(causal_lm, tmp_path, backend, false_id):
    folder = write_logit_reranker(causal_lm, tmp_path / "model", false_id=false_id)
    found, about = scores(folder, backend)
    np.testing.assert_allclose(
        found[:, 0], logit_scores(folder, prepared(folder, PAIRS)[0], false_id), rtol=1e-4, atol=1e-4
    )
    assert about["activation"] == "none"


@pytest.mark.parametrize("backend", BACKENDS)
def test_tied_words_and_a_prefix_are_read_too(causal_lm, tmp_path, backend):
    folder = write_logit_reranker(causal_lm, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(causal_lm, tie_word_embeddings=True)
    model.tie_weights()
    model.save_pretrained(folder)
    found, _ = scores(folder, backend)
    np.testing.assert_allclose(found[:, 0], logit_scores(folder, prepared(folder, PAIRS)[0], NO), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompt", ["", "is it so"])
def test_pairs_go_through_the_chat_template_whole(causal_lm, tmp_path, prompt):
    folder = write_logit_reranker(causal_lm, tmp_path / "model", template=TEMPLATE, prompt=prompt)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for (query, document), row in zip(PAIRS, prepared(folder, PAIRS)[0], strict=True):
        turns = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        system = [{"role": "system", "content": prompt}] if prompt else []
        assert row.ids.tolist() == tokenizer.apply_chat_template([*system, *turns], tokenize=True, return_dict=False)
    (too_long,), _ = prepared(folder, [("a fox " * 100, "a dog")])
    assert isinstance(too_long, RowError)
    assert "stand within a chat template" in str(too_long)


def test_a_template_that_leaves_the_document_out_is_refused(causal_lm, tmp_path):
    folder = write_logit_reranker(causal_lm, tmp_path / "model", template="{{ messages[0].content }}")
    with pytest.raises(UnsupportedOptionError, match="its chat template leaves the document out"):
        prepared(folder, PAIRS)


def test_a_logit_score_has_no_labels(causal_lm, tmp_path):
    folder = write_logit_reranker(causal_lm, tmp_path / "model")
    with pytest.raises(UnsupportedOptionError, match="gives one score of a pair; use task score"):
        scores(folder, "auto", "classify")


def test_logits_that_the_config_changes_are_refused(causal_lm, tmp_path):
    folder = write_logit_reranker(causal_lm, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 30.0}))
    with pytest.raises(UnsupportedOptionError, match=r"logits that final_logit_softcapping of config\.json changes"):
        scores(folder, "auto")


@torch.inference_mode()
def layer_scores(folder: Path, rows, pooling: str) -> np.ndarray:
    """(num_pairs, num_labels) from transformers' hidden states and torch's own functions."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    first, norm, last = (
        load_file(folder / name / "model.safetensors") for name in ("2_Dense", "3_LayerNorm", "4_Dense")
    )
    found = []
    for row in rows:
        types = torch.from_numpy(row.type_ids).long()[None]
        hidden = model(torch.from_numpy(row.ids).long()[None], token_type_ids=types).last_hidden_state[0]
        vector = hidden[0] if pooling == "cls" else hidden.mean(0)
        vector = torch.nn.functional.gelu(vector @ first["linear.weight"].T + first["linear.bias"])
        vector = torch.nn.functional.layer_norm(vector, (WIDTH,), norm["norm.weight"], norm["norm.bias"])
        found.append(vector @ last["linear.weight"].T + last["linear.bias"])
    return torch.stack(found).numpy()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_over_a_vector_give_the_score(embedder, tmp_path, backend, pooling):
    folder = write_pooled_reranker(embedder, tmp_path / "model", pooling=pooling)
    found, about = scores(folder, backend)
    np.testing.assert_allclose(found, layer_scores(folder, prepared(folder, PAIRS)[0], pooling), atol=1e-4)
    assert (about["activation"], about["num_labels"]) == ("none", "1")


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_over_a_vector_give_labels(embedder, tmp_path, backend):
    folder = write_pooled_reranker(embedder, tmp_path / "model", num_labels=3)
    found, about = scores(folder, backend, "classify")
    wanted = layer_scores(folder, prepared(folder, PAIRS)[0], "cls")
    np.testing.assert_allclose(found, torch.from_numpy(wanted).softmax(-1).numpy(), atol=1e-4)
    assert (about["activation"], about["num_labels"]) == ("softmax", "3")
    with pytest.raises(UnsupportedOptionError, match="3 outputs"):
        scores(folder, backend)


def test_layers_beside_the_model_are_in_no_onnx_graph(embedder, tmp_path):
    folder = write_pooled_reranker(embedder, tmp_path / "model")
    with pytest.raises(UnsupportedOptionError, match="layers beside the model make its scores"):
        scores(folder, "onnxruntime")


def test_other_weights_of_a_layer_are_other_weights(embedder, tmp_path):
    folders = [write_pooled_reranker(embedder, tmp_path / name) for name in ("one", "other")]
    (folders[1] / "3_LayerNorm" / "model.safetensors").write_bytes(
        (folders[1] / "2_Dense" / "model.safetensors").read_bytes()
    )
    prints = {Checkpoint(folder, str(folder)).weights_fingerprint for folder in folders}
    assert len(prints) == 2
    with pytest.raises(UnsupportedOptionError, match="its 3_LayerNorm has other weights"):
        scores(folders[1], "auto")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["logits", "template", "prompt", "layers"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_are_those_of_sentence_transformers(causal_lm, embedder, tmp_path, backend, kind):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    if kind == "layers":
        folder = write_pooled_reranker(embedder, tmp_path / "model")
    else:
        prompt = "is it so" if kind == "prompt" else ""
        template = None if kind == "logits" else TEMPLATE
        folder = write_logit_reranker(causal_lm, tmp_path / "model", template=template, prompt=prompt)
    wanted = library.CrossEncoder(str(folder), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(scores(folder, backend)[0][:, 0], wanted, rtol=1e-4, atol=1e-4)
