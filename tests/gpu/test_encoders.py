"""Encoders on a CUDA card: kernels, captured batches, ONNX Runtime packed, memory over many shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ModernBertConfig
from transformers import ModernBertForSequenceClassification as ModernBert

from parquetry.workers.encoding.attention.tiles import TileShape, tiles
from parquetry.workers.encoding.attention.varlen_hook import attend_runs
from parquetry.workers.encoding.batching.device_batch import copy_to_device, layout_of
from parquetry.workers.encoding.batching.row_batch import pack
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.export import export
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.ort_padded import OrtOptions, OrtPaddedEncoder
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.encoding.torch_packed import EncodeTask, PackedEncoder
from parquetry.workers.request import EncodeRequest
from tests.gpu.encoder_rows import VOCAB, needs_onnx_cuda, relative, requests_of, values_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),
]


def bert(dtype: torch.dtype = torch.float32) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        num_labels=3, problem_type="regression", initializer_range=0.08,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval().to(dtype)


def modernbert() -> ModernBert:
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=VOCAB, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
        num_labels=3, problem_type="regression", local_attention=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2, initializer_range=0.08, max_position_embeddings=1024,
    )  # fmt: skip
    return ModernBert(config).eval()


@pytest.fixture(scope="module")
def requests() -> list[EncodeRequest]:
    return requests_of(400)


@pytest.fixture(scope="module")
def expected(requests) -> np.ndarray:
    """float32 on the CPU."""
    return values_of(PackedEncoder(bert(), EncodeTask(task="classify")), requests)


@pytest.mark.parametrize("shape", [TileShape(32, 32, 2, 2), TileShape(64, 32, 4, 3)])
@pytest.mark.parametrize(("window", "causal"), [(0, False), (0, True), (9, False), (9, True)])
def test_tile_kernel_equals_sdpa(shape, window, causal):
    from parquetry.workers.encoding.attention.varlen_kernel import varlen_attention

    batch = pack(requests_of(30, 300))
    torch.manual_seed(0)
    q, k, v = (torch.randn(batch.num_tokens, heads, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2))
    table = torch.from_numpy(tiles(batch.cu_seqlens, shape.rows)).cuda()
    count = torch.tensor([len(table)], dtype=torch.int32, device="cuda")
    found = varlen_attention(q, k, v, table, count, shape, 0.125, window, causal)
    expected = attend_runs(*(x.double() for x in (q, k, v)), batch.runs, 0.125, window, causal)
    assert float((found - expected).norm() / expected.norm()) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_half_precision_agrees_with_float32(dtype, compiled, requests, expected):
    engine = PackedEncoder(bert(dtype).cuda(), EncodeTask(task="classify"), token_budget=16384, compile=compiled)
    assert relative(values_of(engine, requests), expected) < 3e-2
    assert (engine.describe()["compiled"] != "no") == compiled


def test_float32_on_the_card_agrees(requests, expected):
    engine = PackedEncoder(bert().cuda(), EncodeTask(task="classify"), token_budget=16384)
    assert relative(values_of(engine, requests), expected) < 1e-2


def test_sliding_windows_agree():
    requests = requests_of(100, 900)
    expected = values_of(PackedEncoder(modernbert(), EncodeTask(task="classify")), requests)
    engine = PackedEncoder(modernbert().to(torch.bfloat16).cuda(), EncodeTask(task="classify"), token_budget=16384)
    assert relative(values_of(engine, requests), expected) < 5e-2


def test_captured_batches_of_other_lengths_stay_right(requests, expected):
    engine = PackedEncoder(bert(torch.bfloat16).cuda(), EncodeTask(task="classify"), token_budget=8192)
    order = np.random.default_rng(1).permutation(len(requests))
    found = values_of(engine, [requests[index] for index in order])
    assert relative(found, expected[order]) < 3e-2


def test_upload_keeps_every_part():
    batch = pack(requests_of(20), with_types=True)
    layout = layout_of(batch)
    buffer = copy_to_device(layout.host(batch, 2), torch.device("cuda"))
    ids, positions, types, table, count = (part.cpu().numpy() for part in buffer.split(layout.sizes))
    np.testing.assert_array_equal(ids, batch.input_ids)
    np.testing.assert_array_equal(positions, batch.positions(2))
    assert not types.any()
    assert len(table) == 3 * count[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    bert().save_pretrained(folder)
    return folder


def onnx_options(precision: str) -> OrtOptions:
    limits = RowLimits(vocab_size=VOCAB, max_tokens=512, type_vocab_size=2)
    vectors = Vectors(task="classify")
    return OrtOptions(
        limits=limits, vectors=vectors, provider="CUDAExecutionProvider", token_budget=8192, precision=precision
    )


@pytest.fixture(scope="module")
def packed_file(checkpoint, tmp_path_factory) -> Path:
    spec = ExportSpec(task="classify", form="packed", dtype="float16")
    return export(checkpoint, tmp_path_factory.mktemp("packed") / "onnx", spec)


@needs_onnx_cuda
def test_onnx_packed_agrees(packed_file, requests, expected):
    from parquetry.workers.encoding.onnx.ort_packed import OrtPackedEncoder

    found = values_of(OrtPackedEncoder(packed_file, onnx_options("float16"), "cuda:0"), requests)
    assert np.abs(found - expected).max() < 2e-2


@needs_onnx_cuda
def test_onnx_padded_agrees(checkpoint, tmp_path, requests, expected):
    path = export(checkpoint, tmp_path / "onnx", ExportSpec(task="classify", dtype="float16"))
    found = values_of(OrtPaddedEncoder(path, onnx_options("float16")), requests)
    assert np.abs(found - expected).max() < 2e-2


@needs_onnx_cuda
@pytest.mark.parametrize("form", ["packed", "padded"])
def test_onnx_logits_of_a_whole_bert_are_those_of_float32(tmp_path, requests, form):
    from parquetry.workers.encoding.onnx.ort_packed import OrtPackedEncoder

    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=VOCAB, num_labels=3, problem_type="regression")).eval()
    model.save_pretrained(tmp_path / "bert")
    exact = values_of(PackedEncoder(model.cuda(), EncodeTask(task="classify"), token_budget=8192), requests)
    spec = ExportSpec(task="classify", form=form, dtype="float16")
    path, options = export(tmp_path / "bert", tmp_path / "onnx", spec), onnx_options("float16")
    engine = OrtPackedEncoder(path, options, "cuda:0") if form == "packed" else OrtPaddedEncoder(path, options)
    assert np.abs(values_of(engine, requests) - exact).max() < 2e-3


@needs_onnx_cuda
def test_onnx_memory_stays_level_over_random_shapes(packed_file, capsys):
    """10,000 batches of random shapes; the curve is printed."""
    from parquetry.workers.encoding.onnx.ort_packed import OrtPackedEncoder

    engine = OrtPackedEncoder(packed_file, onnx_options("float16"), "cuda:0")
    random = np.random.default_rng(0)
    curve = []
    for number in range(10_000):
        batch = requests_of(int(random.integers(1, 24)), int(random.integers(2, 300)), seed=number)
        engine.collect(engine.launch(batch))
        if number % 1000 == 999:
            free, total = torch.cuda.mem_get_info()
            curve.append((total - free) >> 20)
    with capsys.disabled():
        print(f"\nMiB in use after each 1,000 batches: {curve}")
    assert curve[-1] <= curve[0] + 64
