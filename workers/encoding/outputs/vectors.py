"""What ONNX outputs become on the host: scores of labels, or pooled vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.cross_encoder import score_activation
from parquetry.workers.checkpoint.dense import DenseLayer
from parquetry.workers.checkpoint.score_modules import logit_score, pooled_score
from parquetry.workers.encoding.outputs.label_scores import choose_activation
from parquetry.workers.encoding.outputs.projection import Projection
from parquetry.workers.encoding.outputs.scores import Activation, likeliest_labels, scores, split_rows
from parquetry.workers.encoding.outputs.token_pooling import pool_padded
from parquetry.workers.engine_spec import EngineSpec

#: the output that has one vector a text
SENTENCE = "sentence_embedding"
#: names that exporters give the outputs, the most finished one first
_OUTPUTS = {
    "embed": (SENTENCE, "last_hidden_state", "token_embeddings"),
    "classify": ("logits",),
    "score": ("logits",),
}


def pooling_of(spec: EngineSpec, checkpoint: Checkpoint) -> Any:
    """A mode of `parquetry.workers.checkpoint.pooling`: the spec's, the sentence-transformers folder's, or the mean."""
    if spec.pooling not in (None, "auto"):
        return spec.pooling
    if spec.task == "embed":
        return checkpoint.pooling.mode if checkpoint.pooling else "mean"
    scored = pooled_score(checkpoint, spec.task)
    return scored.mode if scored else "mean"


def after_pooling(spec: EngineSpec, checkpoint: Checkpoint) -> dict[str, Any]:
    """`dense` and `dimensions` of a `Projection`: the folder's layers, and the spec's numbers before the folder's."""
    if scored := pooled_score(checkpoint, spec.task):
        return {"dense": scored.layers}
    said = checkpoint.pooling if spec.task == "embed" else None
    if said is None:
        return {"dimensions": spec.dimensions}
    return {"dense": said.dense, "dimensions": spec.dimensions or said.truncate_dim}


def _activation(checkpoint: Checkpoint, task: Task, per_token: bool) -> Activation:
    if per_token:
        return "softmax"
    if task == "embed":
        return "none"
    config = SimpleNamespace(**{"num_labels": checkpoint.num_labels, **checkpoint.config})
    if logit_score(checkpoint, task) is not None:
        config.num_labels = 1
    return choose_activation(config, task, score_activation(checkpoint) if task == "score" else None)


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """How the values of a task are made of a graph's output."""

    task: Task
    activation: Activation = "none"
    #: for embeddings: a mode of `parquetry.workers.checkpoint.pooling`, and what becomes of a pooled vector
    pooling: str = "mean"
    dense: tuple[DenseLayer, ...] = ()
    dimensions: int | None = None
    normalize: bool = True
    #: whether the labels are of tokens, for task classify
    per_token: bool = False

    @classmethod
    def of(cls, spec: EngineSpec, checkpoint: Checkpoint) -> Vectors:
        """What the spec asks of the checkpoint."""
        per_token = spec.task == "classify" and checkpoint.is_token_classifier
        return cls(
            task=spec.task,
            activation=_activation(checkpoint, spec.task, per_token),
            per_token=per_token,
            pooling=pooling_of(spec, checkpoint),
            **after_pooling(spec, checkpoint),
            normalize=spec.normalize,
        )

    def choose_output(self, names: Sequence[str]) -> str:
        """The output to ask for. Raises UnsupportedOptionError when the graph computes something else."""
        found = next((name for name in _OUTPUTS[self.task] if name in names), None)
        if found is None:
            reason = f"its outputs are {', '.join(names)}, of which none serves task {self.task}"
            raise UnsupportedOptionError(option="the ONNX file", reason=reason)
        return found

    @cached_property
    def projection(self) -> Projection:
        """From pooled vectors to embeddings."""
        return Projection(dense=self.dense, dimensions=self.dimensions, normalize=self.normalize)

    @property
    def finished(self) -> Vectors:
        """For a graph that gives whole vectors of the folder, its dense layers included."""
        return replace(self, dense=())

    def facts(self, dim: int) -> dict[str, str]:
        """What the writer of results needs to know; `dim` values a row before they are finished."""
        if self.task == "embed":
            return {"pooling": self.pooling, "embedding_dim": str(self.projection.width(dim, "mean"))}
        return {"activation": self.activation, "num_labels": str(dim)}

    def finish(self, values: np.ndarray) -> np.ndarray:
        """(num_rows, num_labels) logits to scores, or (num_rows, dim) pooled vectors to embeddings.

        Of tokens (num_tokens, num_labels) logits to (num_tokens, 2) best labels.
        """
        if self.per_token:
            return likeliest_labels(values)
        if self.task != "embed":
            return scores(values, self.activation)
        with torch.inference_mode():
            return self.projection(torch.from_numpy(values)).numpy()

    def finish_rows(self, values: np.ndarray, lens: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """As `finish`, with the values of tokens cut into rows of `lens` (num_rows,) tokens."""
        finished = self.finish(values)
        return split_rows(finished, lens) if self.per_token else finished

    def flat(self, values: np.ndarray, lens: np.ndarray) -> np.ndarray:
        """A padded output (num_rows, max_seqlen, size) without its padding: pooled, or the logits of tokens end to end.

        What has a row a text already stays as it is. Raises UnsupportedOptionError for such where tokens are labelled.
        """
        if self.per_token:
            if values.ndim != 3:
                reason = "the model labels tokens, but its logits have one row a text; export it again"
                raise UnsupportedOptionError(option="the ONNX file", reason=reason)
            return values[np.arange(values.shape[1])[None, :] < lens[:, None]]
        return values if values.ndim == 2 else self.pool(values, lens)

    def pool(self, hidden: np.ndarray, lens: np.ndarray) -> np.ndarray:
        """hidden (num_rows, max_seqlen, dim), right padding; (num_rows, dim)."""
        mask = np.arange(hidden.shape[1])[None, :] < lens[:, None]
        return pool_padded(torch.from_numpy(hidden), torch.from_numpy(mask), self.pooling).numpy()
