"""Biases that are folded and GELU as one operator: the exported graph computes less, and the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from parquetry.workers.encoding.batching.row_batch import pad
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.exporting import trace
from parquetry.workers.encoding.onnx.fused_attention import key_lengths
from parquetry.workers.encoding.onnx.graph_fusing import fuse_for_runtime
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.named_inputs import padded_feeds
from parquetry.workers.encoding.onnx.providers import open_session
from parquetry.workers.request import EncodeRequest
from tests.unit.workers.encoding.encoder_families import VOCAB, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
REQUESTS = [
    EncodeRequest(id=index, token_ids=np.random.default_rng(index).integers(5, VOCAB, size).astype(np.int32))
    for index, size in enumerate((12, 7, 3))
]


def with_biases(family: str, **extra: object) -> nn.Module:
    model = tiny_model(family, **extra)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return model


def expected(model: nn.Module) -> np.ndarray:
    with torch.inference_mode():
        rows = [model(input_ids=torch.from_numpy(r.token_ids).long()[None]).logits for r in REQUESTS]
    return torch.cat(rows).numpy()


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(file), load_external_data=False).graph.node)


@pytest.mark.parametrize(
    ("family", "extra", "gelu", "num_folded"),
    [
        ("bert", {}, "BiasGelu", 2), ("distilbert", {}, "BiasGelu", 2), ("albert", {}, "FastGelu", 1),
        ("roberta", {"hidden_act": "gelu_new"}, "FastGelu", 2), ("electra", {"hidden_act": "relu"}, None, 2),
        ("esm", {}, None, 0),
    ],
)  # fmt: skip
def test_a_fused_graph_computes_the_same(tmp_path, family, extra, gelu, num_folded):
    model = with_biases(family, **extra)
    want, file = expected(model), tmp_path / "model.onnx"
    keys = [module for name, module in model.named_modules() if name.endswith((".key", ".k_lin"))]
    trace(model, file, ExportSpec(task="classify"), KnownRows(REQUESTS, want, None))
    feeds = padded_feeds(pad(REQUESTS, model.config.pad_token_id or 0, with_types=False))
    session = open_session(file, "CPUExecutionProvider")
    inputs = {one.name for one in session.get_inputs()}
    types = {"token_type_ids": np.zeros_like(feeds["input_ids"])} if "token_type_ids" in inputs else {}
    found = session.run(None, {**feeds, **types})[0]
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-4)
    assert sum(key.bias is None for key in keys) == num_folded
    assert {"BiasGelu", "FastGelu"} & set(operators(file)) == ({gelu} if gelu else set())


def test_a_plain_graph_has_no_operator_of_the_runtimes_own(tmp_path):
    model = with_biases("bert")
    trace(
        model, tmp_path / "model.onnx", ExportSpec(task="classify", attention="plain"), KnownRows(REQUESTS, None, None)
    )
    assert not {"BiasGelu", "FastGelu", "MultiHeadAttention"} & set(operators(tmp_path / "model.onnx"))


def test_a_values_bias_waits_for_the_next_product():
    model = with_biases("bert")
    attention = model.bert.encoder.layer[0].attention
    out, value = attention.output.dense, attention.self.value.bias.clone()
    want = out.bias + out.weight @ value
    fuse_for_runtime(model)
    torch.testing.assert_close(out.bias, want)
    assert attention.self.query.bias is not None


def test_lengths_in_the_forms_that_the_operators_take():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert key_lengths(mask, torch.float32).tolist() == [3, 1]
    assert key_lengths(mask, torch.float16).tolist() == [3, 1, 0, 3, 6, 0, 3, 6]
