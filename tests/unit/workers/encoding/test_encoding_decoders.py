"""Decoders as encoders: rows are pooled and scored at their last token, as their own classes do."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import processors
from transformers import AutoModel, Qwen3Config, Qwen3ForCausalLM

from parquetry.schemas import settings as settings_module
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.batching.row_batch import pack
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.request import EncodeRequest
from tests.models import load_tokenizer, write_causal_lm, write_modules
from tests.unit.workers.encoding.conformance import BackEnd, answers
from tests.unit.workers.encoding.encoder_families import VOCAB, tiny_model

BACK_ENDS = [BackEnd(name, name) for name in ("transformers", "packed", "onnxruntime")]
TEXTS = ["a", "the quick brown fox", "columns hold values", "good film " * 20]
EOS = 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def export_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


def rows_of(*ends: int) -> list[EncodeRequest]:
    """Rows of several lengths; each ends in one of `ends`."""
    random = np.random.default_rng(0)
    rows = [random.integers(5, VOCAB, size).astype(np.int32) for size in (9, 2, 30, 1, 17, 9)]
    for number, row in enumerate(rows):
        row[-1] = ends[number % len(ends)]
    return [EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)]


def saved(model, folder):
    """The model's folder, with some tokenizer in it."""
    load_tokenizer(write_causal_lm(folder)).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad_id", [None, EOS], ids=["no padding id", "padding id ends rows"])
@pytest.mark.parametrize("back_end", BACK_ENDS[:2], ids=lambda x: x.name)
@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral", "gemma"])
def test_classifiers_equal_their_own_class(name, back_end, pad_id, tmp_path):
    model = tiny_model(name, pad_token_id=pad_id, eos_token_id=EOS, architectures=None)
    assert type(model).__name__.endswith("ForSequenceClassification")
    folder = saved(model, tmp_path / "model")
    requests = rows_of(EOS, 7)
    found = answers(back_end.engine(folder, "classify"), requests)
    for request in requests:
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(request.token_ids).long()[None]).logits
        np.testing.assert_allclose(found[request.id].values, logits.softmax(-1)[0], atol=1e-4)


def test_a_classifier_in_onnx_reads_the_last_token(tmp_path):
    model = tiny_model("qwen3", pad_token_id=None)
    requests = rows_of(EOS, 7)
    found = answers(BACK_ENDS[2].engine(saved(model, tmp_path / "model"), "classify"), requests)
    for request in requests:
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(request.token_ids).long()[None]).logits
        np.testing.assert_allclose(found[request.id].values, logits.softmax(-1)[0], atol=1e-3)


def test_last_tokens_by_hand():
    rows = [[5, 6, 2], [2, 2], [7], [2, 8, 2, 2]]
    batch = pack([EncodeRequest(id=i, token_ids=np.array(row, np.int32)) for i, row in enumerate(rows)])
    assert batch.last_tokens(None).tolist() == [2, 4, 5, 9]
    assert batch.last_tokens(9).tolist() == [2, 4, 5, 9]
    # the first of a row that is nothing else, as the stock class has it
    assert batch.last_tokens(2).tolist() == [1, 3, 5, 7]


def write_embedder(folder):
    """The shape of Qwen3-Embedding: saved as a language model, an end token behind every text, last-token pooling."""
    write_causal_lm(folder)
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    write_modules(folder, 32, pooling="last")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = ("<|im_end|>", backend.token_to_id("<|im_end|>"))
    backend.post_processor = processors.TemplateProcessing(single="$A <|im_end|>", special_tokens=[end])
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("back_end", BACK_ENDS[:2], ids=lambda x: x.name)
def test_an_embedder_pools_the_end_token(back_end, tmp_path):
    folder = write_embedder(tmp_path / "model")
    assert Checkpoint.resolve(ModelSpec(id=str(folder))).context_window == 48
    tokens = Tokenizer.load(folder).encode(TEXTS, special_tokens=True, limit=48, truncate="right")
    end = Tokenizer.load(folder).id_of("<|im_end|>")
    assert {int(one.ids[-1]) for one in tokens} == {end}
    assert [len(one.ids) for one in tokens][-1] == 48
    requests = [EncodeRequest(id=number, token_ids=one.ids) for number, one in enumerate(tokens)]
    found = answers(back_end.engine(folder, "embed"), requests)
    model = AutoModel.from_pretrained(folder).eval()
    assert found[0].values.shape == (32,)
    for request in requests:
        with torch.inference_mode():
            hidden = model(input_ids=torch.from_numpy(request.token_ids).long()[None]).last_hidden_state[0, -1]
        np.testing.assert_allclose(found[request.id].values, hidden / hidden.norm(), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_an_embedder_equals_sentence_transformers(tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = write_embedder(tmp_path / "model")
    peer = library.SentenceTransformer(str(folder), device="cpu", processor_kwargs={"padding_side": "left"})
    tokens = Tokenizer.load(folder).encode(TEXTS, special_tokens=True, limit=48, truncate="right")
    requests = [EncodeRequest(id=number, token_ids=one.ids) for number, one in enumerate(tokens)]
    found = answers(BACK_ENDS[1].engine(folder, "embed"), requests)
    np.testing.assert_allclose([found[number].values for number in range(4)], peer.encode(TEXTS), atol=1e-4)
