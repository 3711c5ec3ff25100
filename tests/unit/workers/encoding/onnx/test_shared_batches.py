"""Files that look at padding: only rows of equal length share a batch, and each answers as it does alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.ort_padded import OrtOptions, OrtPaddedEncoder
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.request import EncodeRequest

VOCAB, LABELS = 50, 3


def write_model(path: Path, masked: bool) -> Path:
    """Logits that are the mean of a table's rows: of the real tokens, or of padding as well."""
    table = np.random.default_rng(0).normal(size=(VOCAB, LABELS)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["found"]),
        helper.make_node("Cast", ["attention_mask"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["ones", "last"], ["mask"]),
        helper.make_node("Mul", ["found", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept" if masked else "found", "first"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "first"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["logits"]),
    ]
    shape = ["rows", "tokens"]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", LABELS])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1]), "first"),
            numpy_helper.from_array(np.array([2]), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("masked", [True, False])
def test_rows_answer_as_they_do_alone(masked: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = RowLimits(vocab_size=VOCAB, max_tokens=64)
    options = OrtOptions(limits=limits, vectors=Vectors(task="classify"), pad_id=7)
    engine = OrtPaddedEncoder(write_model(tmp_path / "model.onnx", masked), options)
    assert ("equal_lengths_only" in engine.describe()) == (not masked)
    assert ("only rows of equal length" in caplog.text) == (not masked)
    random = np.random.default_rng(1)
    rows = [random.integers(0, VOCAB, length).astype(np.int32) for length in (3, 40, 3, 17, 40)]
    together, alone = answers(engine, rows), [answers(engine, [row])[0] for row in rows]
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def answers(engine: OrtPaddedEncoder, rows: list[np.ndarray]) -> list[np.ndarray]:
    engine.add([EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)])
    found: dict[int, np.ndarray] = {}
    while engine.num_unfinished:
        found |= {result.id: result.values for result in engine.step()}
    return [found[number] for number in range(len(rows))]
