"""Optimum's ONNX Runtime models as a back end. Written for the transformers 4 it pins, and free of transformers 5."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

from parquetry.schemas.errors import MissingPackageError, UnsupportedOptionError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.onnx_files import own_file
from parquetry.workers.checkpoint.pooling import modes_of
from parquetry.workers.checkpoint.score_modules import score_modules
from parquetry.workers.encoding.batching.queue import PADDED
from parquetry.workers.encoding.batching.row_batch import pad
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx.model_file import OnnxFile, is_ours
from parquetry.workers.encoding.onnx.named_inputs import padded_feeds
from parquetry.workers.encoding.onnx.providers import provider_name
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.encoding.queued import QueuedEncoder
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.request import EncodeRequest

_BUDGET = 4_096


def load_optimum(spec: EngineSpec) -> OptimumEncoder:
    """The engine of a spec with backend optimum.

    Raises MissingPackageError outside Optimum's own environment, UnsupportedOptionError for options it cannot follow.
    """
    if spec.task == "generate":
        reason = "it serves classify, score and embed; set model.backend to auto or packed"
        raise UnsupportedOptionError(option="model.backend optimum for task generate", reason=reason)
    if spec.model.quantization != "none":
        reason = "this back end runs the model as it is exported; use backend onnxruntime for int8"
        raise UnsupportedOptionError(option=f"model.quantization {spec.model.quantization}", reason=reason)
    provider = provider_name(settings().onnx_provider, spec.device)
    checkpoint = Checkpoint.resolve(spec.model)
    _require_whole(checkpoint, spec.task)
    own = own_file(checkpoint.folder, spec.model.file)
    if own is not None and is_ours(own):
        own = None
    if own is not None:
        # refuses weights that lie outside the folder before anything reads them
        OnnxFile.open(own)
    model = _load(spec, checkpoint, provider, must_export=own is None)
    vectors = Vectors.of(spec, checkpoint)
    about = {"attention": "onnxruntime", "quantization": "none", "device": spec.device, "provider": provider}
    return OptimumEncoder(model, vectors, checkpoint, spec.token_budget or _BUDGET, about)


def _require_whole(checkpoint: Checkpoint, task: Task) -> None:
    if score_modules(checkpoint, task) is not None:
        reason = "modules beside the model make its scores (modules.json); use backend auto"
        raise UnsupportedOptionError(option="model.backend optimum with this model", reason=reason)


class OptimumEncoder(QueuedEncoder):
    """ORTModelForSequenceClassification or ORTModelForFeatureExtraction over length-sorted padded batches."""

    def __init__(
        self, model: Any, vectors: Vectors, checkpoint: Checkpoint, token_budget: int, about: dict[str, str]
    ) -> None:
        super().__init__(RowLimits.of(checkpoint), token_budget, PADDED)
        self._model, self._vectors, self._about = model, vectors, about
        self._pad_id = checkpoint.pad_id
        pooled = int(checkpoint.config["hidden_size"]) * len(modes_of(vectors.pooling))
        self._dim = pooled if vectors.task == "embed" else checkpoint.num_labels

    def launch(self, requests: list[EncodeRequest]) -> np.ndarray | list[np.ndarray]:
        batch = pad(requests, self._pad_id, with_types=self.limits.has_types)
        self.count_padding(batch.num_padding)
        out = self._model(**padded_feeds(batch))
        values = out.last_hidden_state if self._vectors.task == "embed" else out.logits
        values = self._vectors.flat(np.asarray(values, np.float32), batch.lens)
        return self._vectors.finish_rows(values, batch.lens)

    def collect(self, handle: np.ndarray | list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        return handle

    def describe(self) -> dict[str, str]:
        versions = {name: importlib.metadata.version(name) for name in ("optimum-onnx", "transformers")}
        return {"backend": "optimum", "dtype": "float32", **versions, **self._about, **self._vectors.facts(self._dim)}


def _load(spec: EngineSpec, checkpoint: Checkpoint, provider: str, *, must_export: bool) -> Any:
    """The model on `provider`, exported on the fly when the folder has no ONNX file."""
    try:
        from optimum.onnxruntime import (
            ORTModelForFeatureExtraction,
            ORTModelForSequenceClassification,
            ORTModelForTokenClassification,
        )
    except ImportError:
        raise MissingPackageError(
            feature="model.backend optimum", package="optimum-onnx", install="parquetry[optimum]"
        ) from None
    kind = ORTModelForFeatureExtraction if spec.task == "embed" else ORTModelForSequenceClassification
    if spec.task == "classify" and checkpoint.is_token_classifier:
        kind = ORTModelForTokenClassification
    return kind.from_pretrained(checkpoint.folder, export=must_export, provider=provider, local_files_only=True)
