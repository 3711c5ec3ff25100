"""The packed encoder in torch: one sequence of tokens a batch, the model's own layers and head."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.schemas.errors import EngineRefusedError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.dense import DenseLayer, NormLayer
from parquetry.workers.checks.prompts import TextTokenizer
from parquetry.workers.encoding.attention.varlen_hook import kernel_name
from parquetry.workers.encoding.batching.device_batch import copy_to_device
from parquetry.workers.encoding.batching.queue import PACKED
from parquetry.workers.encoding.batching.readback import Readback
from parquetry.workers.encoding.batching.row_batch import PackedBatch, pack
from parquetry.workers.encoding.batching.tuning import best_num_tokens
from parquetry.workers.encoding.outputs.label_scores import choose_activation, label_scores, token_labels
from parquetry.workers.encoding.outputs.projection import Projection
from parquetry.workers.encoding.outputs.scores import Activation, split_rows
from parquetry.workers.encoding.outputs.token_pooling import Mode, pool
from parquetry.workers.encoding.packed.block_layers import compile_encoder
from parquetry.workers.encoding.packed.body import PackedBody, limits_of
from parquetry.workers.encoding.packed.body_graphs import BodyGraphs
from parquetry.workers.encoding.packed.families import head_dim_of
from parquetry.workers.encoding.packed.heads import OwnHead
from parquetry.workers.encoding.packed.layer_check import LayerCheck
from parquetry.workers.encoding.packed.objections import unsupported_reason
from parquetry.workers.encoding.queued import BatchTooLargeError, QueuedEncoder
from parquetry.workers.fusing.encoder_block import fuse
from parquetry.workers.request import EncodeRequest

log = logging.getLogger(__name__)

#: tokens of a batch: enough to fill a GPU's matrix units; what stays in a CPU's caches
DEFAULT_BUDGET = {"cuda": 65_536, "cpu": 4_096}


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """What is made of the hidden states."""

    task: Task
    #: token vector or mean that stands for a text, for task embed, and what becomes of it
    pooling: Mode = "mean"
    dense: tuple[DenseLayer | NormLayer, ...] = ()
    dimensions: int | None = None
    normalize: bool = True
    #: whether the model's labels are of tokens, for task classify
    per_token: bool = False
    #: whether those layers give the scores, so that the model needs no head
    scores_vectors: bool = False
    #: what pair scores go through where the model's folder says so, for task score
    activation: Activation | None = None


class PackedEncoder(QueuedEncoder):
    """Engine for classify, score and embed over a loaded transformers model.

    Raises EngineRefusedError when the model cannot be packed; ask `unsupported_reason(model)` first.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: EncodeTask,
        *,
        token_budget: int | None = None,
        max_tokens: int | None = None,
        compile: bool = True,
        tokenizer: TextTokenizer | None = None,
        about: dict[str, str] | None = None,
    ) -> None:
        self.task = task
        self.device = next(model.parameters()).device
        check = LayerCheck.of(model, tokenizer)
        body = PackedBody.checked(model, check)
        limits = limits_of(model, body.positions, max_tokens)
        super().__init__(limits, token_budget or DEFAULT_BUDGET[self.device.type], PACKED)
        # two would do if the host were never late; one more covers a core that others have taken for a while
        self.depth = 3 if self.device.type == "cuda" else 1
        self._about = about or {}
        self._projection = Projection(dense=task.dense, dimensions=task.dimensions, normalize=task.normalize)
        self._projection.to(self.device)
        self._dim = self._projection.width(model.config.get_text_config().hidden_size, task.pooling)
        self._num_labels = self._dim if task.scores_vectors else model.config.num_labels
        self._body = body
        self._head = None if task.task == "embed" or task.scores_vectors else OwnHead(model)
        self._pad_id = model.config.get_text_config().pad_token_id
        self._activation = _activation(model, task, self._num_labels)
        self._graphs = self._accelerate(model, check) if compile and self._is_half_on_gpu else None

    @property
    def _is_half_on_gpu(self) -> bool:
        return self.device.type == "cuda" and self._body.dtype in (torch.float16, torch.bfloat16)

    def _accelerate(self, model: PreTrainedModel, check: LayerCheck) -> BodyGraphs | None:
        """Larger kernels, compiled blocks, captured batches."""
        budget = self._queue.budget
        fuse(model)
        check.require(self._body, "fused kernels differ from rows alone", budget)
        compile_encoder(model)
        check.require(self._body, "compiled layers differ from rows alone", budget)
        self._queue.budget = best_num_tokens(self._body, budget, self.limits.vocab_size)
        return BodyGraphs(self._body, self._queue.budget, head_dim_of(model.config))

    def launch(self, requests: list[EncodeRequest]) -> _Values:
        batch = pack(requests, with_types=self.limits.has_types)
        try:
            with torch.inference_mode():
                return _Values(Readback(self._values(batch)), batch.lens)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise BatchTooLargeError from error

    def collect(self, handle: _Values) -> np.ndarray | list[np.ndarray]:
        values = handle.values.wait()
        return split_rows(values, handle.lens) if self.task.per_token else values

    def _values(self, batch: PackedBatch) -> Tensor:
        hidden, cu_seqlens = self._hidden(batch)
        if self._head is not None:
            last = self._last_tokens(batch) if self._head.mode == "last" else None
            logits = self._head(hidden, cu_seqlens, last)
            return token_labels(logits) if self.task.per_token else label_scores(logits, self._activation)
        vectors = self._projection(pool(hidden, cu_seqlens, self.task.pooling))
        return label_scores(vectors, self._activation) if self.task.scores_vectors else vectors

    def _last_tokens(self, batch: PackedBatch) -> Tensor:
        """For decoders, whose own classes pass over padding ids at the end of a row, even real ones."""
        return copy_to_device(batch.last_tokens(self._pad_id), self.device)

    def _hidden(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        if self._graphs is None or not self._graphs.takes(batch):
            return self._body(batch)
        try:
            hidden = self._graphs(batch)
        except EngineRefusedError as error:
            log.warning("batches are not captured from here on: %s", error)
            self._graphs = None
            return self._body(batch)
        self.count_padding(self._graphs.num_free(batch))
        return hidden

    def describe(self) -> dict[str, str]:
        return {
            "backend": "packed",
            "dtype": str(self._body.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **self._about,
            **self._facts(),
            "attention": kernel_name(self.device, self._body.dtype),
            "compiled": "no" if self._graphs is None else "blocks, graphs",
        }

    def _facts(self) -> dict[str, str]:
        if self.task.task == "embed":
            return {"pooling": self.task.pooling, "embedding_dim": str(self._dim)}
        return {"activation": self._activation, "num_labels": str(self._num_labels)}


def _activation(model: PreTrainedModel, task: EncodeTask, num_labels: int) -> Activation:
    if task.task == "embed":
        return "none"
    if task.scores_vectors:
        return choose_activation(SimpleNamespace(num_labels=num_labels), task.task, task.activation)
    return "softmax" if task.per_token else choose_activation(model.config, task.task, task.activation)


@dataclass(frozen=True, eq=False)
class _Values:
    """A batch's values on their way to the host, and the lengths of its rows."""

    values: Readback
    lens: np.ndarray


__all__ = ["EncodeTask", "PackedEncoder", "unsupported_reason"]
