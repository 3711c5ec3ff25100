"""Token bitmasks over logits."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_bitmask(logits: Tensor, masks: Tensor) -> Tensor:
    """logits (num_rows, vocab_size) with -inf where the bit of masks (num_rows, words) int32 is 0, low bits first."""
    bits = torch.arange(32, dtype=torch.int32, device=masks.device)
    allowed = ((masks[:, :, None] >> bits) & 1).flatten(1)[:, : logits.shape[-1]]
    return logits.masked_fill(allowed == 0, float("-inf"))
