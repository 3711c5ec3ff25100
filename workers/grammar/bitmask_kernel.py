"""Triton kernel: bitmasks over logits in one pass, where torch would write every bit out as a number of its own."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096


@triton.jit
def _mask_kernel(
    logits_ptr, masks_ptr, out_ptr, vocab_size, logits_stride, masks_stride, tile: tl.constexpr
):  # fmt: skip
    row, token = tl.program_id(0).to(tl.int64), tl.program_id(1) * tile + tl.arange(0, tile)
    inside = token < vocab_size
    words = tl.load(masks_ptr + row * masks_stride + token // 32, mask=inside, other=0)
    logits = tl.load(logits_ptr + row * logits_stride + token, mask=inside, other=0.0).to(tl.float32)
    is_allowed = ((words >> (token % 32)) & 1) != 0
    masked = tl.where(is_allowed, logits, float("-inf"))
    tl.store(out_ptr + row * vocab_size + token, masked.to(out_ptr.dtype.element_ty), mask=inside)


def mask_on_gpu(logits: Tensor, masks: Tensor) -> Tensor:
    """A copy of logits (num_rows, vocab_size), innermost stride 1, with -inf where the bit of masks is 0."""
    num_rows, vocab_size = logits.shape
    out = torch.empty(num_rows, vocab_size, dtype=logits.dtype, device=logits.device)
    _mask_kernel[(num_rows, triton.cdiv(vocab_size, TILE))](
        logits, masks, out, vocab_size, logits.stride(0), masks.stride(0), tile=TILE, num_warps=8
    )
    return out
