"""Classification, scores and embeddings against the model classes themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, pipeline

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.encoding.outputs.label_scores import label_scores
from parquetry.workers.encoding.torch_padded import TorchEncoder
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import EncodeRequest

TEXTS = ["the quick brown fox", "good", "", "a table of rows and a model that reads them", "😀"]
PAIRS = [("the fox", "a dog"), ("good film", "bad book song"), ("", "x")]


def load(folder, task, **options):
    budget = options.pop("token_budget", None)
    model = ModelSpec(id=str(folder))
    return load_engine(EngineSpec(task=task, model_path=str(folder), model=model, token_budget=budget, **options))


def encode(folder, texts):
    return Tokenizer.load(folder).encode(texts, special_tokens=True, limit=32, truncate="error")


def run(engine, tokens) -> np.ndarray:
    engine.add([EncodeRequest(id=i, token_ids=t.ids, token_type_ids=t.type_ids) for i, t in enumerate(tokens)])
    results = {}
    while engine.num_unfinished:
        results |= {result.id: result for result in engine.step()}
    assert [results[i].error for i in range(len(tokens))] == [None] * len(tokens)
    return np.stack([results[i].values for i in range(len(tokens))])


def inputs_of(tokens) -> dict:
    inputs = {"input_ids": torch.from_numpy(tokens.ids.astype(np.int64))[None]}
    if tokens.type_ids is not None:
        inputs["token_type_ids"] = torch.from_numpy(tokens.type_ids.astype(np.int64))[None]
    return inputs


@pytest.mark.parametrize("token_budget", [1, 12, 4096])
def test_classification_equals_the_model_row_by_row(classifier, token_budget):
    reference = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokens = encode(classifier, TEXTS)

    found = run(load(classifier, "classify", token_budget=token_budget), tokens)

    with torch.inference_mode():
        expected = torch.cat([reference(**inputs_of(one)).logits.softmax(-1) for one in tokens])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pairs_have_their_segments(scorer):
    reference = AutoModelForSequenceClassification.from_pretrained(scorer).eval()
    tokens = Tokenizer.load(scorer).encode_pairs(PAIRS, limit=32, truncate="error")

    found = run(load(scorer, "score"), tokens)

    with torch.inference_mode():
        expected = torch.cat([reference(**inputs_of(one)).logits.sigmoid() for one in tokens])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_pair_scores_equal_a_cross_encoder(scorer):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    tokens = Tokenizer.load(scorer).encode_pairs(PAIRS, limit=32, truncate="error")

    found = run(load(scorer, "score"), tokens)

    np.testing.assert_allclose(found[:, 0], library.CrossEncoder(str(scorer), device="cpu").predict(PAIRS), atol=1e-5)


@pytest.mark.parametrize("problem_type", [None, "regression", "multi_label_classification"])
@pytest.mark.parametrize("labels", [["only"], ["a", "b", "c"]], ids=len)
def test_scores_are_those_of_the_pipeline(tmp_path, problem_type, labels):
    from tests.models import write_classifier

    folder = write_classifier(tmp_path / "model", labels=labels, problem_type=problem_type)
    judge = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)

    found = run(load(folder, "classify"), encode(folder, TEXTS))

    by_label = [{one["label"]: one["score"] for one in scores} for scores in judge(TEXTS)]
    np.testing.assert_allclose(found, [[scores[name] for name in labels] for scores in by_label], atol=1e-5)


def test_labels_that_exclude_nothing_get_a_sigmoid(tmp_path):
    from tests.models import write_classifier

    folder = write_classifier(tmp_path / "multi", problem_type="multi_label_classification")
    engine = load(folder, "classify")

    assert engine.describe()["activation"] == "sigmoid"
    assert (run(engine, encode(folder, TEXTS)) < 1).all()


def test_scoring_needs_one_output(classifier):
    with pytest.raises(UnsupportedOptionError, match="3 outputs"):
        load(classifier, "score")


def mean_pooled(folder, tokens) -> torch.Tensor:
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return torch.stack([model(**inputs_of(one)).last_hidden_state[0].mean(0) for one in tokens])


def test_embeddings_equal_mean_pooling_by_hand(embedder):
    tokens = encode(embedder, TEXTS)
    expected = mean_pooled(embedder, tokens)

    plain = run(load(embedder, "embed", pooling="auto", normalize=False), tokens)
    unit = run(load(embedder, "embed", pooling="auto"), tokens)

    np.testing.assert_allclose(plain, expected, atol=1e-5)
    np.testing.assert_allclose(unit, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_pooling_of_the_folder_and_of_the_spec(tmp_path, embedder):
    from tests.models import write_embedder

    folder = write_embedder(tmp_path / "cls", pooling="cls")

    assert load(folder, "embed", pooling="auto").describe()["pooling"] == "cls"
    assert load(folder, "embed", pooling="max").describe()["pooling"] == "max"
    assert load(embedder, "embed", pooling="auto").describe()["embedding_dim"] == "32"


def test_activations_by_hand():
    logits = torch.tensor([[0.0, 0.0]])

    assert label_scores(logits, "softmax").tolist() == [[0.5, 0.5]]
    assert label_scores(logits, "sigmoid").tolist() == [[0.5, 0.5]]
    assert label_scores(logits, "none").tolist() == [[0.0, 0.0]]


def test_what_the_model_cannot_take_is_a_row_error(embedder):
    engine = load(embedder, "embed")
    bad = [np.empty(0, np.int32), np.array([10**6], np.int32), np.zeros(500, np.int32)]
    engine.add([EncodeRequest(id=i, token_ids=ids) for i, ids in enumerate(bad)])

    errors = {result.id: result.error for result in engine.step()}

    assert all("tok" in errors[i] for i in range(3))


def with_head(folder, auto_class, head) -> TorchEncoder:
    """A padded engine whose values are made by `head`."""
    model = auto_class.from_pretrained(folder, dtype=torch.float32).eval()
    return TorchEncoder(model, head, pad_id=0, max_tokens=64, token_budget=4096)


def test_values_that_are_not_finite_are_a_row_error(embedder):
    engine = with_head(embedder, AutoModel, lambda output, mask: torch.full((len(mask), 2), float("nan")))
    engine.add([EncodeRequest(id=0, token_ids=np.array([2, 3], np.int32))])

    assert "not finite" in engine.step()[0].error


def test_out_of_memory_halves_the_batch(classifier):
    tokens = encode(classifier, TEXTS)
    expected = run(load(classifier, "classify"), tokens)

    def fails_above_two_rows(output, mask):
        if len(mask) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return label_scores(output.logits, "softmax")

    engine = with_head(classifier, AutoModelForSequenceClassification, fails_above_two_rows)

    np.testing.assert_allclose(run(engine, tokens), expected, atol=1e-5)


def test_a_decoder_classifies_by_its_last_token(tmp_path, causal_lm):
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(causal_lm, num_labels=2)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((causal_lm / name).read_bytes())
    tokens = Tokenizer.load(tmp_path).encode(
        ["a", "the quick brown fox"], special_tokens=True, limit=64, truncate="error"
    )

    found = run(load(tmp_path, "classify"), tokens)

    model.eval()
    with torch.inference_mode():
        expected = torch.cat([model(**inputs_of(one)).logits.softmax(-1) for one in tokens])
    np.testing.assert_allclose(found, expected, atol=1e-5)
