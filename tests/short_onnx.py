"""An ONNX classifier that fails on rows which are longer than its table of positions, whatever its folder says."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_short_onnx(file: Path, *, vocab_size: int, num_positions: int, num_labels: int = 3) -> None:
    """Logits are the mean of a row's word and position vectors; a position beyond the table is an error."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    random = np.random.default_rng(0)
    tables = {"words": (vocab_size, num_labels), "places": (num_positions, num_labels)}
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in tables.items()}
    numbers = {"zero": np.int64(0), "one": np.int64(1), "middle": np.array([1], np.int64)}
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["positions"]),
        helper.make_node("Gather", ["places", "positions"], ["place_vectors"]),
        helper.make_node("Gather", ["words", "input_ids"], ["word_vectors"]),
        helper.make_node("Add", ["word_vectors", "place_vectors"], ["vectors"]),
        helper.make_node("ReduceMean", ["vectors", "middle"], ["logits"], keepdims=0),
    ]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "tokens"]) for name in names]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", num_labels])]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in {**weights, **numbers}.items()]
    graph = helper.make_graph(nodes, "short", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    save(model, str(file))
