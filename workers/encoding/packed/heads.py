"""A model's own head over rows that were computed packed: the body's forward is replaced by what it gave."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as BodyOutput

from parquetry.workers.encoding.outputs.token_pooling import Mode, pool
from parquetry.workers.encoding.packed.families import family_of

_PADDING = 0


class _Given(nn.Module):
    """Stands in for the body: returns what was put into `output`."""

    output: BodyOutput

    def forward(self, *args: object, **kwargs: object) -> BodyOutput:
        return self.output


class OwnHead:
    """Logits from pooled rows, through the model class's own forward.

    The head sees sequences of one token, the pooled one, so whatever it does to position 0 (or to the mean of all
    positions) it does to the right vector.
    """

    def __init__(self, model: PreTrainedModel, gather: Callable[[Tensor, Tensor, Mode], Tensor] = pool) -> None:
        self._gather = gather
        self._call_pooler = _pooler_call(model.base_model)
        self.mode: Mode = _row_vector(model)
        #: EuroBERT's late pooling: logits of every token, then their mean
        self._is_late = getattr(model.config, "classifier_pooling", None) == "late"
        self._is_per_token = type(model).__name__.endswith("ForTokenClassification")
        self._given = _Given()
        # a shallow copy with the body exchanged; parameters stay shared
        self._model = copy.copy(model)
        # accelerate binds its forward to the module it was put on, which is not the copy
        self._model.__dict__.pop("forward", None)
        self._model._modules = {**model._modules, model.base_model_prefix: self._given}
        # decoders look for the last token that is not padding, and want a padding id to tell
        self._model.config = copy.copy(model.config)
        self._model.config.pad_token_id = _PADDING

    def __call__(self, hidden: Tensor, cu_seqlens: Tensor, last: Tensor | None = None) -> Tensor:
        """hidden (num_tokens, dim); returns (num_rows, num_labels) logits, or (num_tokens, num_labels), float32.

        `last` (num_rows,) int64 says which tokens a decoder's head reads, by default the last of each row.
        """
        if self._is_per_token:
            return self._logits(hidden[None])[0]
        if self._is_late:
            return self._gather(self._logits(hidden[:, None]), cu_seqlens, "mean")
        if last is not None:
            return self.of_rows(hidden[last])
        return self.of_rows(self._gather(hidden, cu_seqlens, self.mode))

    def of_rows(self, vectors: Tensor) -> Tensor:
        """vectors (num_rows, dim) that stand for their rows; (num_rows, num_labels) logits, float32."""
        return self._logits(vectors[:, None])

    def _logits(self, rows: Tensor) -> Tensor:
        """rows (num_rows, 1, dim), or all tokens (1, num_tokens, dim) for a head that looks at each alone."""
        pooled = self._call_pooler(rows) if self._call_pooler else None
        self._given.output = BodyOutput(last_hidden_state=rows, pooler_output=pooled)
        mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
        ids = torch.full_like(mask, _PADDING + 1)
        return self._model(input_ids=ids, attention_mask=mask).logits.float()


def _pooler_call(body: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """What turns (num_rows, 1, dim) into the body's pooler_output, None for bodies without one."""
    pooler = getattr(body, "pooler", None)
    if pooler is None:
        return None
    if isinstance(pooler, nn.Linear):
        # ALBERT keeps the activation beside the pooler
        return lambda rows: body.pooler_activation(pooler(rows[:, 0]))
    return pooler


def _row_vector(model: PreTrainedModel) -> Mode:
    """Which token vector of a row the head reads."""
    family = family_of(model.config)
    if family is not None and family.is_causal:
        return "last"
    return "mean" if getattr(model.config, "classifier_pooling", None) == "mean" else "cls"
