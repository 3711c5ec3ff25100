"""Embeddings of sentence-transformers folders: poolings, dense layers, prompts, dimensions, on every back end."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModel

from parquetry.schemas import settings as settings_module
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.onnx.exported_graphs import pool_exported
from parquetry.workers.encoding.outputs.projection import Projection
from parquetry.workers.encoding.outputs.token_pooling import pool, pool_padded
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.preparation.texts import TextPreparation
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import EncodeRequest
from tests.models import write_embedder

TEXTS = ["The quick brown FOX", "good", "a table of rows and a model that reads them", "fox " * 60, "Lazy Dog"]
MODES = ["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last"]
BACK_ENDS = ["transformers", "packed", "onnxruntime"]
DENSE = [(24, "torch.nn.modules.activation.Tanh"), (16, "torch.nn.modules.linear.Identity")]
PROMPTS = {"prompts": {"query": "Good Query: ", "document": ""}, "default_prompt_name": "query"}
#: what a folder may hold, and what a job may ask of it
FOLDERS = {
    "max": {"pooling": "max"},
    "weighted": {"pooling": "weighted_mean"},
    "square root": {"pooling": "mean_sqrt_len"},
    "two poolings": {"pooling": "cls+mean"},
    "dense": {"dense": DENSE},
    "two and dense": {"pooling": "max+mean", "dense": DENSE},
    "prompts": PROMPTS,
    "lowercase": {"lowercase": True},
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def export_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


def embeddings(folder, texts, *, backend="transformers", **embed) -> np.ndarray:
    """What a job over the texts would write, before it is rounded."""
    data = {"task": "embed", "input": {"path": "in.parquet"}, "output": {"path": "out"}, "embed": embed}
    spec = JobSpec.parse({**data, "model": {"id": str(folder), "backend": backend}})
    preparation = TextPreparation(spec, Checkpoint.resolve(spec.model), Tokenizer.load(folder), datetime.now(UTC))
    record = JobRecord.model_construct(spec=spec, model_path=str(folder))
    engine = load_engine(EngineSpec.of(record))
    tokens = preparation.tokens(pa.record_batch({"text": texts}))
    engine.add([EncodeRequest(id=number, token_ids=one.ids) for number, one in enumerate(tokens)])
    results = {}
    while engine.num_unfinished:
        results |= {result.id: result for result in engine.step()}
    found = np.stack([results[number].values for number in range(len(texts))])
    assert found.shape[1] == int(engine.describe()["embedding_dim"])
    return found


def by_hand(folder, text: str) -> np.ndarray:
    """Hidden states (num_tokens, 32) of a text, cut to the folder's 32 tokens."""
    tokens = Tokenizer.load(folder).encode([text], special_tokens=True, limit=32, truncate="right")[0]
    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(input_ids=torch.from_numpy(tokens.ids).long()[None]).last_hidden_state[0].numpy()


POOLED = {
    "cls": lambda h: h[0],
    "last": lambda h: h[-1],
    "max": lambda h: h.max(0),
    "mean": lambda h: h.mean(0),
    "mean_sqrt_len": lambda h: h.sum(0) / np.sqrt(len(h)),
    "weighted_mean": lambda h: (h * np.arange(1, len(h) + 1)[:, None]).sum(0) / np.arange(1, len(h) + 1).sum(),
}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [[1, 8], [5, 6]]),
        ("mean", [[2, 6], [5, 6]]),
        ("max", [[3, 8], [5, 6]]),
        ("last", [[3, 4], [5, 6]]),
        ("mean_sqrt_len", [[4 / 2**0.5, 12 / 2**0.5], [5, 6]]),
        ("weighted_mean", [[7 / 3, 16 / 3], [5, 6]]),
        ("last+cls", [[3, 4, 1, 8], [5, 6, 5, 6]]),
    ],
)
def test_pooling_by_hand(mode, expected):
    hidden = torch.tensor([[[1.0, 8.0], [3.0, 4.0]], [[5.0, 6.0], [99.0, 99.0]]])
    packed, cu_seqlens = torch.tensor([[1.0, 8.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([0, 2, 3], dtype=torch.int32)
    close = lambda found: np.testing.assert_allclose(found, expected, rtol=1e-6)  # noqa: E731

    close(pool_padded(hidden, torch.tensor([[1, 1], [1, 0]]), mode))
    close(pool(packed, cu_seqlens, mode))
    if mode != "max":
        close(pool_exported(packed, cu_seqlens, mode))


def test_projection_by_hand():
    vectors = torch.tensor([[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]])

    np.testing.assert_allclose(Projection()(vectors), [[3 / 13, 4 / 13, 12 / 13], [0, 0, 1]], rtol=1e-6)
    # cut first, then brought to length one; a zero vector stays one
    np.testing.assert_allclose(Projection(dimensions=2)(vectors), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert Projection(dimensions=2, normalize=False)(vectors).tolist() == [[3, 4], [0, 0]]


@pytest.mark.parametrize("backend", BACK_ENDS)
def test_every_back_end_pools_alike(backend, tmp_path):
    mode = "cls+weighted_mean"
    folder = write_embedder(tmp_path / "model", pooling=mode, dense=DENSE)
    found = embeddings(folder, TEXTS, backend=backend, normalize=False, dimensions=12)

    tensors = [Projection(dense=Checkpoint.resolve(ModelSpec(id=str(folder))).pooling.dense, normalize=False)]
    for text, vector in zip(TEXTS, found, strict=True):
        pooled = np.concatenate([POOLED[one](by_hand(folder, text)) for one in mode.split("+")])
        np.testing.assert_allclose(vector, tensors[0](torch.from_numpy(pooled)[None])[0, :12], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_spec_may_name_any_pooling(mode, embedder):
    found = embeddings(embedder, TEXTS, pooling=mode, normalize=False)
    for text, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(vector, POOLED[mode](by_hand(embedder, text)), atol=1e-5)


def test_dense_layers_by_hand(tmp_path):
    from safetensors.numpy import load_file

    folder = write_embedder(tmp_path / "model", dense=DENSE)
    first, second = (load_file(folder / name / "model.safetensors") for name in ("2_Dense", "3_Dense"))
    vector = by_hand(folder, TEXTS[0]).mean(0)
    vector = np.tanh(first["linear.weight"] @ vector + first["linear.bias"])
    vector = second["linear.weight"] @ vector + second["linear.bias"]
    np.testing.assert_allclose(embeddings(folder, TEXTS[:1])[0], vector / np.linalg.norm(vector), atol=1e-5)


def test_other_dense_weights_are_another_model(tmp_path):
    folder = write_embedder(tmp_path / "model", dense=DENSE)
    before = Checkpoint.resolve(ModelSpec(id=str(folder))).weights_fingerprint
    weights = folder / "3_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert Checkpoint.resolve(ModelSpec(id=str(folder))).weights_fingerprint != before


def test_prompts_go_before_the_text(tmp_path):
    folder = write_embedder(tmp_path / "model", **PROMPTS)
    text = TEXTS[:1]
    by_name = {name: embeddings(folder, text, prompt=name) for name in (None, "query", "document", "")}
    written = embeddings(folder, ["Good Query: " + text[0]], prompt="")
    np.testing.assert_array_equal(by_name[None], written)
    np.testing.assert_array_equal(by_name["query"], written)
    np.testing.assert_array_equal(by_name["document"], by_name[""])
    assert np.abs(by_name[""] - written).max() > 1e-3


def test_the_folders_own_number_of_dimensions(tmp_path):
    folder = write_embedder(tmp_path / "model", truncate_dim=8)
    whole = embeddings(folder, TEXTS, dimensions=32)
    np.testing.assert_allclose(
        embeddings(folder, TEXTS), whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1)[:, None], atol=1e-6
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", FOLDERS.values(), ids=FOLDERS)
def test_vectors_are_those_of_sentence_transformers(options, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = write_embedder(tmp_path / "model", **options)
    if options.get("lowercase"):
        make_cased(folder)
    peer = library.SentenceTransformer(str(folder), device="cpu")

    np.testing.assert_allclose(embeddings(folder, TEXTS), peer.encode(TEXTS), atol=1e-5)
    cut = peer.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_allclose(embeddings(folder, TEXTS, dimensions=8), cut, atol=1e-5)


def make_cased(folder) -> None:
    """Take the tokenizer's own lower case away, so that only the folder's setting brings it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers

    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = normalizers.NFC()
    backend.save(str(folder / "tokenizer.json"))


def test_texts_in_lower_case_where_the_folder_says_so(tmp_path):
    lower, as_is = (write_embedder(tmp_path / str(flag), lowercase=flag) for flag in (True, False))
    for folder in (lower, as_is):
        make_cased(folder)
    texts = ["The FOX", "the fox"]
    for folder, is_equal in ((lower, True), (as_is, False)):
        first, second = embeddings(folder, texts)
        assert np.allclose(first, second) == is_equal
