"""One vector a row out of one vector a token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from parquetry.workers.checkpoint.pooling import modes_of

#: cls, max, mean, mean_sqrt_len, weighted_mean, last, or several joined by `+`, whose vectors are concatenated
Mode = str


def pool(hidden: Tensor, cu_seqlens: Tensor, mode: Mode) -> Tensor:
    """hidden (num_tokens, dim), cu_seqlens (num_rows + 1,) int32; (num_rows, dim of all modes) in hidden's dtype."""
    return torch.cat([_pool(hidden, cu_seqlens, one).to(hidden.dtype) for one in modes_of(mode)], -1)


def _pool(hidden: Tensor, cu_seqlens: Tensor, mode: str) -> Tensor:
    if mode == "cls":
        return hidden[cu_seqlens[:-1].long()]
    if mode == "last":
        return hidden[cu_seqlens[1:].long() - 1]
    if mode == "mean":
        # one pass over the tokens, with sums in float32 whatever they are stored in
        indices = torch.arange(len(hidden), dtype=torch.int32, device=hidden.device)
        return embedding_bag(indices, hidden, cu_seqlens, mode="mean", include_last_offset=True)
    lens = cu_seqlens.diff().long()
    # float32 sums: bfloat16 ones lose the small terms of long rows
    values = hidden.float()
    if mode == "max":
        return torch.segment_reduce(values, "max", lengths=lens, unsafe=True)
    if mode == "weighted_mean":
        begins = torch.repeat_interleave(cu_seqlens[:-1], lens, output_size=len(hidden))
        values = values * (torch.arange(1, len(hidden) + 1, device=hidden.device) - begins)[:, None]
    return torch.segment_reduce(values, "sum", lengths=lens, unsafe=True) / divisor(lens.float(), mode)[:, None]


def divisor(lens: Tensor, mode: str) -> Tensor:
    """(num_rows,) what the sum of a row of `lens` tokens is divided by; the weighted mean counts token i i times."""
    if mode == "weighted_mean":
        return lens * (lens + 1) / 2
    return lens.sqrt() if mode == "mean_sqrt_len" else lens


def pool_padded(hidden: Tensor, attention_mask: Tensor, mode: Mode) -> Tensor:
    """hidden (num_rows, max_seqlen, dim), right padding, attention_mask (num_rows, max_seqlen); as `pool` otherwise."""
    return torch.cat([_pool_padded(hidden, attention_mask, one).to(hidden.dtype) for one in modes_of(mode)], -1)


def _pool_padded(hidden: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    if mode == "cls":
        return hidden[:, 0]
    lens = attention_mask.sum(1)
    if mode == "last":
        at = (lens - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        return hidden.gather(1, at)[:, 0]
    real = attention_mask[..., None].bool()
    if mode == "max":
        return torch.where(real, hidden, torch.finfo(hidden.dtype).min).amax(1)
    values = torch.where(real, hidden.float(), 0.0)
    if mode == "weighted_mean":
        values = values * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[:, None]
    return values.sum(1) / divisor(lens.float(), mode)[:, None]
