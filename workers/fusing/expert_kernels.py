"""Triton kernels around the products of experts: placing their tokens, and the weighted sum.

All grids depend on shapes alone, so that a decode step can be captured, and none uses an atomic: the same batch gives
the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: pairs that one program places; up to this many there is one part, and nothing to count first
SMALL_PART, PART = 512, 4096
#: most parts, so that the table of their counts stays small
MAX_PARTS = 16


@triton.jit(do_not_specialize=["num_pairs"])
def _count_kernel(ids_ptr, counts_ptr, num_pairs, num_experts, size: tl.constexpr):
    expert, part = tl.program_id(0), tl.program_id(1)
    pair = part * size + tl.arange(0, size)
    ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1)
    count = tl.sum((tl.minimum(ids, num_experts) == expert).to(tl.int32))
    tl.store(counts_ptr + part * (num_experts + 1) + expert, count)


# the last "expert" is all those of other ranks
@triton.jit(do_not_specialize=["num_pairs", "num_parts"])
def _place_kernel(
    ids_ptr, counts_ptr, pairs_ptr, slots_ptr, ends_ptr, num_pairs, num_parts, num_experts,
    size: tl.constexpr, parts: tl.constexpr, experts: tl.constexpr,
):  # fmt: skip
    expert, part = tl.program_id(0), tl.program_id(1)
    pair = part * size + tl.arange(0, size)
    is_real = pair < num_pairs
    ids = tl.minimum(tl.load(ids_ptr + pair, mask=is_real, other=0), num_experts)
    is_mine = is_real & (ids == expert)
    if parts == 1:
        first = tl.sum((is_real & (ids < expert)).to(tl.int32))
    else:
        in_part, of = tl.arange(0, parts)[:, None], tl.arange(0, experts)[None, :]
        is_before = (of < expert) | ((of == expert) & (in_part < part))
        is_before = is_before & (in_part < num_parts)
        counts = tl.load(counts_ptr + in_part * (num_experts + 1) + of, mask=is_before, other=0)
        first = tl.sum(tl.sum(counts, 1))
    slot = first + tl.cumsum(is_mine.to(tl.int32), 0) - 1
    tl.store(slots_ptr + pair, slot, mask=is_mine)
    tl.store(pairs_ptr + slot, pair, mask=is_mine)
    if (expert < num_experts) & (part == num_parts - 1):
        tl.store(ends_ptr + expert, first + tl.sum(is_mine.to(tl.int32)))


@triton.jit
def _sum_kernel(
    rows_ptr, slots_ptr, ends_ptr, weights_ptr, bias_ptr, ids_ptr, out_ptr, width, num_experts,
    top_k: tl.constexpr, block: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    end = tl.load(ends_ptr + num_experts - 1)
    out = tl.zeros([block], tl.float32)
    for number in tl.static_range(top_k):
        slot = tl.load(slots_ptr + token * top_k + number).to(tl.int64)
        weight = tl.load(weights_ptr + token * top_k + number).to(tl.float32)
        # rows of other ranks' pairs were never written
        kept = (column < width) & (slot < end)
        row = tl.load(rows_ptr + slot * width + column, mask=kept, other=0.0).to(tl.float32)
        if has_bias:
            expert = tl.load(ids_ptr + token * top_k + number).to(tl.int64)
            row += tl.load(bias_ptr + expert * width + column, mask=kept, other=0.0).to(tl.float32)
        out += tl.where(kept, row * weight, 0.0)
    tl.store(out_ptr + token * width + column, out.to(out_ptr.dtype.element_ty), mask=column < width)


def place(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """`place_experts` on a card."""
    num_pairs = ids.numel()
    size = (
        SMALL_PART if num_pairs <= SMALL_PART else max(PART, triton.next_power_of_2(triton.cdiv(num_pairs, MAX_PARTS)))
    )
    num_parts = triton.cdiv(num_pairs, size)
    pairs, slots = (ids.new_empty(num_pairs, dtype=torch.int32) for _ in range(2))
    ends = ids.new_empty(num_experts, dtype=torch.int32)
    grid, num_warps = (num_experts + 1, num_parts), 4 if size == SMALL_PART else 8
    counts = ends
    if num_parts > 1:
        counts = ids.new_empty(num_parts, num_experts + 1, dtype=torch.int32)
        _count_kernel[grid](ids, counts, num_pairs, num_experts, size=size, num_warps=num_warps)
    _place_kernel[grid](
        ids, counts, pairs, slots, ends, num_pairs, num_parts, num_experts,
        size=size, parts=1 if num_parts == 1 else MAX_PARTS, experts=triton.next_power_of_2(num_experts + 1),
        num_warps=num_warps,
    )  # fmt: skip
    return pairs, slots, ends


def weigh(rows: Tensor, slots: Tensor, ends: Tensor, weights: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    """`sum_experts` on a card."""
    (num_tokens, top_k), width = ids.shape, rows.shape[1]
    out = rows.new_empty(num_tokens, width)
    block = block_of(width)
    _sum_kernel[num_tokens, triton.cdiv(width, block)](
        rows, slots, ends, weights.contiguous(), rows if bias is None else bias, ids, out, width, len(ends),
        top_k=top_k, block=block, has_bias=bias is not None,
    )  # fmt: skip
    return out


def block_of(width: int) -> int:
    """Columns of one program of four warps, whose threads each load 16 bytes of half precision."""
    return min(1024, triton.next_power_of_2(width))
