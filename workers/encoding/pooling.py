"""One vector a row out of one vector a token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["cls", "mean", "last", "max"]


def pool(hidden: Tensor, cu_seqlens: Tensor, mode: Mode) -> Tensor:
    """hidden (num_tokens, dim), cu_seqlens (num_rows + 1,) int32; returns (num_rows, dim) in hidden's dtype."""
    if mode == "cls":
        return hidden[cu_seqlens[:-1].long()]
    if mode == "last":
        return hidden[cu_seqlens[1:].long() - 1]
    if mode == "mean":
        return _mean(hidden, cu_seqlens)
    lens = cu_seqlens.diff().long()
    return torch.segment_reduce(hidden.float(), "max", lengths=lens, unsafe=True).to(hidden.dtype)


def _mean(hidden: Tensor, cu_seqlens: Tensor) -> Tensor:
    lens = cu_seqlens.diff().long()
    # float32 sums: bfloat16 ones lose the small terms of long rows
    sums = torch.segment_reduce(hidden.float(), "sum", lengths=lens, unsafe=True)
    return (sums / lens[:, None]).to(hidden.dtype)


def pool_padded(hidden: Tensor, attention_mask: Tensor, mode: Mode) -> Tensor:
    """hidden (num_rows, max_seqlen, dim), right padding, attention_mask (num_rows, max_seqlen); (num_rows, dim)."""
    if mode == "cls":
        return hidden[:, 0]
    lens = attention_mask.sum(1)
    if mode == "last":
        at = (lens - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        return hidden.gather(1, at)[:, 0]
    real = attention_mask[..., None].bool()
    if mode == "mean":
        sums = torch.where(real, hidden.float(), 0.0).sum(1)
        return (sums / lens[:, None]).to(hidden.dtype)
    return torch.where(real, hidden, torch.finfo(hidden.dtype).min).amax(1)


def normalized(vectors: Tensor) -> Tensor:
    """(num_rows, dim) scaled to length one."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
