"""Top-k and top-p without a sort: the exact cut is found by bisecting the bit patterns of the logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def ordered_bits(x: Tensor) -> Tensor:
    """float32 -> int64 with the same order."""
    bits = x.contiguous().view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def largest_cut(bits: Tensor, is_enough: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest cut (num_rows, 1) for which `is_enough(bits >= cut)` (num_rows, 1) still holds.

    `is_enough` must hold for the smallest value of a row; 33 halvings reach the exact bit pattern.
    """
    low = bits.amin(-1, keepdim=True)
    high = bits.amax(-1, keepdim=True) + 1
    for _ in range(33):
        middle = (low + high) >> 1
        enough = is_enough(bits >= middle)
        low = torch.where(enough, middle, low)
        high = torch.where(enough, high, middle)
    return low


def keep_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """Mask all but the `top_k` (num_rows,) largest logits of each row; 0 keeps all, ties with the last one stay."""
    wanted = torch.where(top_k > 0, top_k, logits.shape[-1]).clamp_max(logits.shape[-1])[:, None]
    bits = ordered_bits(logits)
    cut = largest_cut(bits, lambda kept: kept.sum(-1, keepdim=True) >= wanted)
    return logits.masked_fill(bits < cut, float("-inf"))


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Mask all but the smallest set of most likely tokens whose probability reaches `top_p` (num_rows,)."""
    probs = logits.softmax(-1)
    bits = ordered_bits(logits)
    wanted = torch.where(top_p < 1.0, top_p, -1.0)[:, None]
    cut = largest_cut(bits, lambda kept: torch.where(kept, probs, 0.0).sum(-1, keepdim=True) >= wanted)
    # A row that keeps everything must not lose tokens to rounding.
    return logits.masked_fill((bits < cut) & (wanted >= 0), float("-inf"))


def keep_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Mask tokens less likely than `min_p` (num_rows,) times the likeliest one; 0 keeps all."""
    floor = logits.amax(-1, keepdim=True) + torch.log(min_p)[:, None]
    return logits.masked_fill(logits < floor, float("-inf"))
