"""The torch side of an export: trace the model, write the file, compare it with the model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.batching.pad_id import own_pad_id
from parquetry.workers.encoding.batching.row_batch import pack, pad
from parquetry.workers.encoding.model_class import model_class
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.exported_graphs import PackedGraph, PaddedGraph, fused_reason, takes_types
from parquetry.workers.encoding.onnx.graph_fusing import fuse_for_runtime
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.model_file import FACTS_NAME
from parquetry.workers.encoding.onnx.named_inputs import packed_feeds, padded_feeds
from parquetry.workers.encoding.onnx.torch_answers import DTYPES, known_rows
from parquetry.workers.encoding.positions import Positions
from parquetry.workers.loading.pretrained import read_model
from parquetry.workers.request import EncodeRequest

_OUTPUT = {True: "sentence_embedding", False: "logits"}


def write_export(folder: Path, file: Path, spec: ExportSpec) -> None:
    """Write the ONNX file, `export.json` and `known_rows.npz` beside it."""
    model = _load(folder, spec)
    positions = Positions.of(model)
    checkpoint = Checkpoint(folder, str(folder))
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
    known = known_rows(model, spec, tokenizer, positions.max_tokens)
    trace(model, file, spec, known, positions.start)
    if spec.quantization == "int8":
        quantize(file, spec.weight_bits)
    known.save(file.parent)
    facts = {
        "graph": spec.graph(),
        "weights": checkpoint.weights_fingerprint,
        "position_start": positions.start,
        "hidden_size": model.config.hidden_size,
        "num_labels": model.config.num_labels,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (file.parent / FACTS_NAME).write_text(json.dumps(facts, indent=2, sort_keys=True), encoding="utf-8")


def trace(model: PreTrainedModel, file: Path, spec: ExportSpec, known: KnownRows, position_start: int = 0) -> None:
    """Write `file` with every dimension of rows and tokens left open."""
    pooling = spec.pooling if spec.task == "embed" else None
    is_fused = spec.attention == "fused" and fused_reason(model) is None
    if is_fused:
        fuse_for_runtime(model)
    model = model.to(DTYPES[spec.dtype])
    if spec.form == "packed":
        graph: nn.Module = PackedGraph(model, pooling)
    else:
        graph = PaddedGraph(model, pooling, is_fused=is_fused)
    arrays = _feeds(model, spec, known.requests, position_start)
    feeds = {name: torch.from_numpy(array) for name, array in arrays.items()}
    _export(graph, file, feeds, _OUTPUT[spec.task == "embed"])


def _export(graph: nn.Module, file: Path, feeds: dict[str, Tensor], output: str) -> None:
    opened = torch.export.Dim.AUTO
    # a batch dimension of one is the packed sequence itself and stays fixed
    shapes = {name: {at: opened for at, size in enumerate(x.shape) if size > 1} for name, x in feeds.items()}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            kwargs=feeds,
            f=str(file),
            dynamo=True,
            input_names=list(feeds),
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=18,
            verbose=False,
        )


def quantize(file: Path, weight_bits: int) -> None:
    """Matrix products to int8 in place: weights of 7 or 8 bits by channel, activations scaled as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(file))
    # shapes the exporter noted contradict what quantization infers after its own rewrites
    del model.graph.value_info[:]
    quantize_dynamic(
        model,
        str(file),
        per_channel=True,
        reduce_range=weight_bits == 7,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        use_external_data_format=_is_large(file),
    )
    if not _is_large(file):
        file.with_name(f"{file.name}.data").unlink(missing_ok=True)


def _is_large(file: Path) -> bool:
    """Whether the weights do not fit one protobuf message."""
    data = file.with_name(f"{file.name}.data")
    return data.is_file() and data.stat().st_size > 7_000_000_000


def _load(folder: Path, spec: ExportSpec) -> PreTrainedModel:
    checkpoint = Checkpoint(folder, str(folder))
    kind = model_class(spec.task, checkpoint)
    model = read_model(kind, checkpoint, task=spec.task, dtype=torch.float32, local_files_only=True)
    reason = fused_reason(model)
    if spec.form == "packed" and reason is not None:
        raise UnsupportedOptionError(option="packed ONNX export", reason=reason)
    return model


def _feeds(
    model: PreTrainedModel, spec: ExportSpec, requests: list[EncodeRequest], position_start: int
) -> dict[str, np.ndarray]:
    with_types = takes_types(model)
    if spec.form == "packed":
        return packed_feeds(pack(requests, with_types=with_types), position_start)
    return padded_feeds(pad(requests, own_pad_id(model) or 0, with_types=with_types))
