"""The packed encoder in torch: one sequence of tokens a batch, the model's own layers and head."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from schemas.errors import EngineRefusedError
from schemas.job import Task
from workers.encoding.attention import IMPLEMENTATION, Segments, computing
from workers.encoding.batch import PackedBatch, pack
from workers.encoding.families import max_row_tokens, position_start
from workers.encoding.guards import check_packed, unsupported_reason
from workers.encoding.heads import OwnHead
from workers.encoding.layers import compile_layers
from workers.encoding.pooling import Mode, normalized, pool
from workers.encoding.queue import packed_cost
from workers.encoding.queued import BatchTooLargeError, QueuedEncoder
from workers.encoding.rows import RowLimits
from workers.encoding.scores import activation_of, scores
from workers.request import EncodeRequest

log = logging.getLogger(__name__)

#: tokens of a batch: enough to fill a GPU's matrix units; what stays in a CPU's caches
DEFAULT_BUDGET = {"cuda": 65_536, "cpu": 4_096}


@dataclass(frozen=True, kw_only=True)
class EncodeTask:
    """What is made of the hidden states."""

    task: Task
    #: token vector or mean that stands for a text, for task embed
    pooling: Mode = "mean"
    normalize: bool = True


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
        compile: bool = False,
        quantization: str = "none",
    ) -> None:
        self.task = task
        self.device = next(model.parameters()).device
        super().__init__(limits_of(model), token_budget or DEFAULT_BUDGET[self.device.type], packed_cost)
        self.depth = 2 if self.device.type == "cuda" else 1
        self._quantization = quantization
        self._body = _checked_body(model)
        self._head = None if task.task == "embed" else OwnHead(model)
        self._activation = activation_of(task.task, model.config.to_dict(), model.config.num_labels)
        self._compiled = compile and compile_layers(model)

    def launch(self, requests: list[EncodeRequest]) -> _Values:
        batch = pack(requests, with_types=self.limits.has_types)
        try:
            with torch.inference_mode():
                return _Values(self._values(batch))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise BatchTooLargeError from error

    def collect(self, handle: _Values) -> np.ndarray:
        values = handle.wait()
        return values if self.task.task == "embed" else scores(values, self._activation)

    def _values(self, batch: PackedBatch) -> Tensor:
        hidden, cu_seqlens = self._body(batch)
        if self._head is not None:
            return self._head(hidden, cu_seqlens)
        vectors = pool(hidden, cu_seqlens, self.task.pooling)
        return normalized(vectors) if self.task.normalize else vectors.float()

    def describe(self) -> dict[str, str]:
        return {
            "backend": "packed-encoder",
            "attention": _attention_name(self.device, self._body.dtype),
            "dtype": str(self._body.dtype).removeprefix("torch."),
            "quantization": self._quantization,
            "compiled": str(bool(self._compiled)).lower(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def limits_of(model: PreTrainedModel) -> RowLimits:
    """What rows the model takes."""
    config = model.config
    types = getattr(config, "type_vocab_size", 0) if _takes_types(model.base_model) else 0
    return RowLimits(vocab_size=config.vocab_size, max_tokens=max_row_tokens(config), type_vocab_size=types or 0)


def _checked_body(model: PreTrainedModel) -> _Body:
    own = model.config._attn_implementation
    body = _Body(model)
    try:
        check_packed(model, body)
    except EngineRefusedError:
        # the caller may still want to run the model padded
        model.set_attn_implementation(own)
        raise
    return body


class _Body:
    """The model without its head, over packed batches."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._body = model.base_model
        self._start = position_start(model.config)
        self._takes_types = _takes_types(self._body)
        self.device = next(model.parameters()).device
        self.dtype = model.dtype
        model.set_attn_implementation(IMPLEMENTATION)

    def __call__(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """The last hidden states (num_tokens, dim), and cu_seqlens (num_rows + 1,) on the device."""
        ids, positions, cu_seqlens, types = self._upload(batch)
        inputs: dict[str, Any] = {"token_type_ids": types[None]} if self._takes_types else {}
        segments = Segments(cu_seqlens, batch.max_seqlen, batch.runs)
        with computing(segments):
            out = self._body(input_ids=ids[None], position_ids=positions[None], attention_mask=None, **inputs)
        return out.last_hidden_state[0], cu_seqlens

    def _upload(self, batch: PackedBatch) -> list[Tensor]:
        """Token ids, positions, cu_seqlens and segment ids in one copy from pinned memory."""
        parts = [batch.input_ids, batch.positions(self._start), batch.cu_seqlens]
        if batch.token_type_ids is not None:
            parts.append(batch.token_type_ids)
        host = torch.from_numpy(np.concatenate(parts))
        if self.device.type == "cuda":
            host = host.pin_memory()
        parts = list(host.to(self.device, non_blocking=True).split([len(part) for part in parts]))
        if batch.token_type_ids is None:
            parts.append(torch.zeros_like(parts[0]))
        return [parts[0].long(), parts[1].long(), parts[2], parts[3].long()]


class _Values:
    """A batch's values on their way to the host."""

    def __init__(self, values: Tensor) -> None:
        self._event = None
        self._host = values
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> np.ndarray:
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def _takes_types(body: PreTrainedModel) -> bool:
    parameters = inspect.signature(body.forward).parameters
    return "token_type_ids" in parameters and bool(getattr(body.config, "type_vocab_size", 0))


def _attention_name(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda":
        return "sdpa, rows of equal length together"
    return "memory-efficient varlen" if dtype == torch.float32 else "flash varlen"


__all__ = ["EncodeTask", "PackedEncoder", "limits_of", "unsupported_reason"]
