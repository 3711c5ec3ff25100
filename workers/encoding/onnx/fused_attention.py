"""Attention hooks that write ONNX Runtime's own fused operators into an exported graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

PACKED = "parquetry_onnx_packed"
PADDED = "parquetry_onnx_padded"


class _Current:
    """Graph inputs that the operators take besides q, k and v."""

    #: token_offset (num_rows, max_seqlen) and cu_seqlens (num_rows + 1,), int32
    packed: tuple[Tensor, Tensor] | None = None
    #: what `key_lengths` returns
    lens: Tensor | None = None


@contextmanager
def exporting(packed: tuple[Tensor, Tensor] | None = None, lens: Tensor | None = None) -> Iterator[None]:
    """Hand graph inputs to the hooks."""
    _Current.packed, _Current.lens = packed, lens
    try:
        yield
    finally:
        _Current.packed = _Current.lens = None


def _packed_hook(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """query, key, value (1, heads, num_tokens, dim); returns (1, num_tokens, heads, dim)."""
    heads, dim = query.shape[1], query.shape[3]
    q, k, v = (x.transpose(1, 2).reshape(-1, heads * dim) for x in (query, key, value))
    assert _Current.packed is not None
    out = torch.onnx.ops.symbolic(
        "com.microsoft::PackedMultiHeadAttention",
        (q, k, v, None, *_Current.packed),
        {"num_heads": heads, "scale": float(scaling)},
        dtype=query.dtype,
        shape=(query.shape[2], heads * dim),
        version=1,
    )
    return out.reshape(1, -1, heads, dim), None


def _padded_hook(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """query, key, value (num_rows, heads, length, dim); returns (num_rows, length, heads, dim)."""
    rows, heads, length, dim = query.shape
    q, k, v = (x.transpose(1, 2).reshape(rows, length, heads * dim) for x in (query, key, value))
    out = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (q, k, v, None, _Current.lens),
        {"num_heads": heads, "scale": float(scaling)},
        dtype=query.dtype,
        shape=(rows, length, heads * dim),
        version=1,
    )
    return out.reshape(rows, length, heads, dim), None


def key_lengths(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(num_rows,) int32 tokens of each row, which is the form that the CPU's operator takes.

    In half precision (3 * num_rows + 2,): these, and twice where the rows begin, (num_rows + 1,). Without, the operator
    on CUDA writes all scores to memory.
    """
    lens = attention_mask.sum(1).to(torch.int32)
    if dtype == torch.float32:
        return lens
    rows, length = attention_mask.shape
    begins = torch.arange(rows + 1, dtype=torch.int32, device=lens.device) * length
    return torch.cat([lens, begins, begins])


AttentionInterface.register(PACKED, _packed_hook)
AttentionInterface.register(PADDED, _padded_hook)
