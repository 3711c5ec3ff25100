"""A Triton kernel for the k largest of a row of few numbers: k times the maximum, a row a program."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _choose_kernel(scores_ptr, values_ptr, places_ptr, width, k: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, block)
    scores = tl.load(scores_ptr + row * width + place, mask=place < width, other=0.0).to(tl.float32)
    # as torch has it, NaN is larger than all numbers; so that no place is picked twice, it takes part like one
    scores = tl.where(scores == scores, scores, float("nan"))
    bits = scores.to(tl.int32, bitcast=True)
    # whole numbers in the order of the floating-point ones
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    # the order, then the place, the first of equals being the largest
    keys = (order.to(tl.int64) << 32) | (block - 1 - place).to(tl.int64)
    lowest = tl.full([block], -(2**63), tl.int64)
    keys = tl.where(place < width, keys, lowest)
    for number in tl.static_range(k):
        best = tl.max(keys, 0)
        keys = tl.where(keys == best, lowest, keys)
        order_of_best = (best >> 32).to(tl.int32)
        value = (order_of_best ^ ((order_of_best >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
        tl.store(values_ptr + row * k + number, value.to(values_ptr.dtype.element_ty))
        tl.store(places_ptr + row * k + number, block - 1 - (best & 0xFFFFFFFF))


def choose(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`choose_experts` on a card."""
    scores, width = scores.contiguous(), scores.shape[-1]
    values = scores.new_empty((*scores.shape[:-1], k))
    places = scores.new_empty((*scores.shape[:-1], k), dtype=torch.int64)
    num_rows = scores.numel() // width
    block = triton.next_power_of_2(width)
    _choose_kernel[(num_rows,)](scores, values, places, width, k=k, block=block, num_warps=1)
    return values, places
