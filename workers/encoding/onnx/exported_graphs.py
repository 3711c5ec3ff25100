"""What is exported: the model with the inputs of a padded or of a packed batch, and one vector a row as output."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from parquetry.workers.checkpoint.pooling import modes_of
from parquetry.workers.encoding.onnx.fused_attention import PACKED, PADDED, exporting, key_lengths
from parquetry.workers.encoding.outputs.token_pooling import Mode, divisor, pool_padded
from parquetry.workers.encoding.packed.families import family_of
from parquetry.workers.encoding.packed.heads import OwnHead
from parquetry.workers.encoding.packed.objections import sliding_window_of


def takes_types(model: PreTrainedModel) -> bool:
    """Whether segment ids make a difference to the model."""
    parameters = inspect.signature(model.base_model.forward).parameters
    return "token_type_ids" in parameters and (getattr(model.config, "type_vocab_size", 0) or 0) > 1


def fused_reason(model: PreTrainedModel) -> str | None:
    """Why the attention of a model cannot be one of ONNX Runtime's fused operators, None when it can."""
    family = family_of(model.config)
    if family is None:
        return f"model type {model.config.model_type!r} is not on the list of families that pack"
    if family.is_causal or sliding_window_of(model):
        return "the fused operators have neither causal rows nor sliding windows"
    return None


class PaddedGraph(nn.Module):
    """input_ids, attention_mask and, where they count, token_type_ids: (num_rows, max_seqlen) int64.

    Gives logits (num_rows, num_labels), or with `pooling` embeddings (num_rows, dim), float32.
    """

    def __init__(self, model: PreTrainedModel, pooling: Mode | None, *, is_fused: bool) -> None:
        super().__init__()
        self._model, self._pooling, self._is_fused = model, pooling, is_fused
        family = family_of(model.config)
        # a decoder's own class looks for padding ids, which a model need not have
        self._last = OwnHead(model) if pooling is None and family is not None and family.is_causal else None
        model.set_attn_implementation(PADDED if self._is_fused else "sdpa")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        # the operator takes lengths, from which no mask of max_seqlen squared is made
        mask = None if self._is_fused else attention_mask
        with exporting(lens=key_lengths(attention_mask, self._model.dtype)):
            model = self._model.base_model if self._last is not None else self._model
            out = model(input_ids=input_ids, attention_mask=mask, **types)
        if self._last is not None:
            return self._last.of_rows(pool_padded(out.last_hidden_state, attention_mask, "last"))
        if self._pooling is None:
            return out.logits.float()
        return pool_padded(out.last_hidden_state, attention_mask, self._pooling).float()


class PackedGraph(nn.Module):
    """input_ids, position_ids and, where they count, token_type_ids: (1, num_tokens) int64; token_offset (num_rows,
    max_seqlen) int32 as PackedMultiHeadAttention wants it; cu_seqlens (num_rows + 1,) int32.

    Gives logits (num_rows, num_labels), or with `pooling` embeddings (num_rows, dim), float32.
    """

    def __init__(self, model: PreTrainedModel, pooling: Mode | None) -> None:
        super().__init__()
        self._body, self._pooling = model.base_model, pooling
        self._head = OwnHead(model, gather=pool_exported) if pooling is None else None
        model.set_attn_implementation(PACKED)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_offset: Tensor,
        cu_seqlens: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        with exporting(packed=(token_offset, cu_seqlens)):
            out = self._body(input_ids=input_ids, position_ids=position_ids, attention_mask=None, **types)
        hidden = out.last_hidden_state[0]
        if self._head is not None:
            return self._head(hidden, cu_seqlens)
        assert self._pooling is not None
        return pool_exported(hidden, cu_seqlens, self._pooling).float()


def pool_exported(hidden: Tensor, cu_seqlens: Tensor, mode: Mode) -> Tensor:
    """As `pooling.pool`, in operators that ONNX has: a mean is a product with a matrix of weights and zeros."""
    return torch.cat([_pool_exported(hidden, cu_seqlens, one) for one in modes_of(mode)], -1)


def _pool_exported(hidden: Tensor, cu_seqlens: Tensor, mode: str) -> Tensor:
    if mode == "cls":
        return hidden.index_select(0, cu_seqlens[:-1])
    if mode == "last":
        return hidden.index_select(0, cu_seqlens[1:] - 1)
    at = torch.arange(hidden.shape[0], device=hidden.device)[None]
    begins, ends = cu_seqlens[:-1, None], cu_seqlens[1:, None]
    weights = ((at >= begins) & (at < ends)).float()
    if mode == "weighted_mean":
        weights = weights * (at - begins + 1)
    return (weights / divisor((ends - begins).float(), mode)).to(hidden.dtype) @ hidden
