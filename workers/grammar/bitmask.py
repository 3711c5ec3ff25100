"""Token bitmasks over logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def apply_bitmask(logits: Tensor, masks: Tensor) -> Tensor:
    """logits (num_rows, vocab_size) with -inf where the bit of masks (num_rows, words) int32 is 0, low bits first."""
    if logits.is_cuda:
        from parquetry.workers.grammar.bitmask_kernel import mask_on_gpu

        return mask_on_gpu(logits, masks)
    octets = masks.numpy().astype("<i4", copy=False).view(np.uint8)
    allowed = np.unpackbits(octets, axis=1, count=logits.shape[-1], bitorder="little")
    return logits.masked_fill(torch.from_numpy(allowed) == 0, float("-inf"))
