"""What encoders make of hidden states on a card: labels of tokens, poolings, dense layers, decoders' last tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from parquetry.workers.checkpoint.dense import DenseLayer
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.export import export
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.ort_padded import OrtOptions, OrtPaddedEncoder
from parquetry.workers.encoding.outputs.token_pooling import pool
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.encoding.torch_packed import EncodeTask, PackedEncoder
from tests.gpu.encoder_rows import VOCAB, needs_onnx_cuda, relative, requests_of, rows_of, values_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]
ENTITIES = EncodeTask(task="classify", per_token=True)
PAD = 3


def bert(kind: type[PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        num_labels=5, initializer_range=0.08,
    )  # fmt: skip
    return kind(config).eval()


def qwen3(pad_id: int | None) -> Qwen3ForSequenceClassification:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=256, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, intermediate_size=512, num_labels=3, problem_type="regression", pad_token_id=pad_id,
        initializer_range=0.08,
    )  # fmt: skip
    return Qwen3ForSequenceClassification(config).eval()


def embedding_gemma() -> Gemma3TextModel:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCAB, hidden_size=256, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
        head_dim=256, intermediate_size=512, sliding_window=64, use_bidirectional_attention=True, pad_token_id=0,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], initializer_range=0.08,
    )  # fmt: skip
    return Gemma3TextModel(config).eval()


def on_card(model: PreTrainedModel) -> PreTrainedModel:
    return model.to(torch.bfloat16).cuda()


@pytest.fixture(scope="module")
def labels() -> list[np.ndarray]:
    """(2 * num_tokens,) of each row by float32 on the CPU."""
    return rows_of(PackedEncoder(bert(BertForTokenClassification), ENTITIES), requests_of(150))


def require_same_labels(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Nearly all tokens keep their label, and their scores stay close; half precision may turn a tie."""
    assert [row.shape for row in found] == [row.shape for row in expected]
    (mine, score), (wanted, wanted_score) = (np.concatenate(rows).reshape(-1, 2).T for rows in (found, expected))
    assert (mine == wanted).mean() > 0.97
    assert np.abs(score - wanted_score).mean() < 2e-2


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_labels_of_tokens_agree(compiled, labels):
    engine = PackedEncoder(on_card(bert(BertForTokenClassification)), ENTITIES, token_budget=16384, compile=compiled)
    require_same_labels(rows_of(engine, requests_of(150)), labels)


def onnx_options() -> OrtOptions:
    limits = RowLimits(vocab_size=VOCAB, max_tokens=512, type_vocab_size=2)
    vectors = Vectors(task="classify", activation="softmax", per_token=True)
    provider = "CUDAExecutionProvider"
    return OrtOptions(limits=limits, vectors=vectors, provider=provider, token_budget=8192, precision="float16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("entities")
    bert(BertForTokenClassification).save_pretrained(folder)
    return folder


@needs_onnx_cuda
def test_onnx_packed_labels_of_tokens_agree(checkpoint, labels, tmp_path):
    from parquetry.workers.encoding.onnx.ort_packed import OrtPackedEncoder

    path = export(checkpoint, tmp_path / "onnx", ExportSpec(task="classify", form="packed", dtype="float16"))
    require_same_labels(rows_of(OrtPackedEncoder(path, onnx_options(), "cuda:0"), requests_of(150)), labels)


@needs_onnx_cuda
def test_onnx_padded_labels_of_tokens_agree(checkpoint, labels, tmp_path):
    path = export(checkpoint, tmp_path / "onnx", ExportSpec(task="classify", dtype="float16"))
    require_same_labels(rows_of(OrtPaddedEncoder(path, onnx_options()), requests_of(150)), labels)


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last", "cls+mean"])
def test_poolings_agree(mode):
    torch.manual_seed(0)
    hidden, cu_seqlens = torch.randn(900, 64), torch.tensor([0, 1, 300, 303, 900], dtype=torch.int32)
    found = pool(hidden.cuda(), cu_seqlens.cuda(), mode)
    torch.testing.assert_close(found.cpu(), pool(hidden, cu_seqlens, mode), rtol=1e-4, atol=1e-4)


def test_dense_layers_and_fewer_dimensions_agree(tmp_path):
    torch.manual_seed(1)
    linear = torch.nn.Linear(512, 128)
    save_file({f"linear.{name}": value for name, value in linear.state_dict().items()}, tmp_path / "model.safetensors")
    task = EncodeTask(task="embed", pooling="cls+mean", dense=(DenseLayer(tmp_path, 512, 128, "Tanh"),), dimensions=64)
    requests = requests_of(100)
    expected = values_of(PackedEncoder(bert(BertModel), task), requests)
    found = values_of(PackedEncoder(on_card(bert(BertModel)), task, token_budget=16384), requests)
    assert found.shape == (100, 64)
    assert relative(found, expected) < 3e-2


@pytest.mark.parametrize("pad_id", [None, PAD], ids=["no padding id", "padding id ends rows"])
def test_a_decoders_last_tokens_agree(pad_id):
    requests = requests_of(100, 300)
    for request in requests[::3]:
        request.token_ids[-1] = PAD
    expected = values_of(PackedEncoder(qwen3(pad_id), EncodeTask(task="classify")), requests)
    found = values_of(PackedEncoder(on_card(qwen3(pad_id)), EncodeTask(task="classify"), token_budget=16384), requests)
    assert relative(found, expected) < 5e-2


def test_a_decoder_that_looks_both_ways_agrees():
    requests = requests_of(60, 300)
    expected = values_of(PackedEncoder(embedding_gemma(), EncodeTask(task="embed")), requests)
    found = values_of(PackedEncoder(on_card(embedding_gemma()), EncodeTask(task="embed"), token_budget=8192), requests)
    assert relative(found, expected) < 5e-2
