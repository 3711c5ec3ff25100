"""Triton kernels around the products of experts: placing their tokens, and the weighted sum.

All grids depend on shapes alone, so that a decode step can be captured, and none uses an atomic: the same batch gives
the same bits every time.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: pairs that one program places; up to this many there is one tile, and nothing to count first
SMALL_TILE, TILE = 512, 4096
#: most tiles, so that the table of their counts stays small
MAX_TILES = 16


@triton.jit(do_not_specialize=["num_pairs"])
def _count_kernel(ids_ptr, counts_ptr, num_pairs, num_experts, size: tl.constexpr):
    expert, tile = tl.program_id(0), tl.program_id(1)
    pair = tile * size + tl.arange(0, size)
    ids = tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1)
    count = tl.sum((tl.minimum(ids, num_experts) == expert).to(tl.int32))
    tl.store(counts_ptr + tile * (num_experts + 1) + expert, count)


# the last "expert" is all those of other ranks
@triton.jit(do_not_specialize=["num_pairs", "num_tiles"])
def _place_kernel(
    ids_ptr, counts_ptr, pairs_ptr, rows_ptr, ends_ptr, num_pairs, num_tiles, num_experts,
    size: tl.constexpr, tiles: tl.constexpr, experts: tl.constexpr,
):  # fmt: skip
    expert, tile = tl.program_id(0), tl.program_id(1)
    pair = tile * size + tl.arange(0, size)
    is_real = pair < num_pairs
    ids = tl.minimum(tl.load(ids_ptr + pair, mask=is_real, other=0), num_experts)
    is_mine = is_real & (ids == expert)
    if tiles == 1:
        first = tl.sum((is_real & (ids < expert)).to(tl.int32))
    else:
        in_tile, of = tl.arange(0, tiles)[:, None], tl.arange(0, experts)[None, :]
        is_before = (of < expert) | ((of == expert) & (in_tile < tile))
        is_before = is_before & (in_tile < num_tiles)
        counts = tl.load(counts_ptr + in_tile * (num_experts + 1) + of, mask=is_before, other=0)
        first = tl.sum(tl.sum(counts, 1))
    row = first + tl.cumsum(is_mine.to(tl.int32), 0) - 1
    tl.store(rows_ptr + pair, row, mask=is_mine)
    tl.store(pairs_ptr + row, pair, mask=is_mine)
    if (expert < num_experts) & (tile == num_tiles - 1):
        tl.store(ends_ptr + expert, first + tl.sum(is_mine.to(tl.int32)))


@triton.jit
def _sum_kernel(
    products_ptr, rows_ptr, ends_ptr, weights_ptr, bias_ptr, ids_ptr, out_ptr, width, num_experts,
    top_k: tl.constexpr, block: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    end = tl.load(ends_ptr + num_experts - 1)
    out = tl.zeros([block], tl.float32)
    for number in tl.static_range(top_k):
        row = tl.load(rows_ptr + token * top_k + number).to(tl.int64)
        weight = tl.load(weights_ptr + token * top_k + number).to(tl.float32)
        # rows of other ranks' pairs were never written
        kept = (column < width) & (row < end)
        product = tl.load(products_ptr + row * width + column, mask=kept, other=0.0).to(tl.float32)
        if has_bias:
            expert = tl.load(ids_ptr + token * top_k + number).to(tl.int64)
            product += tl.load(bias_ptr + expert * width + column, mask=kept, other=0.0).to(tl.float32)
        out += tl.where(kept, product * weight, 0.0)
    tl.store(out_ptr + token * width + column, out.to(out_ptr.dtype.element_ty), mask=column < width)


def place(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """`place_experts` on a card."""
    num_pairs = ids.numel()
    size = (
        SMALL_TILE if num_pairs <= SMALL_TILE else max(TILE, triton.next_power_of_2(triton.cdiv(num_pairs, MAX_TILES)))
    )
    num_tiles = triton.cdiv(num_pairs, size)
    pairs, rows = (ids.new_empty(num_pairs, dtype=torch.int32) for _ in range(2))
    ends = ids.new_empty(num_experts, dtype=torch.int32)
    grid, num_warps = (num_experts + 1, num_tiles), 4 if size == SMALL_TILE else 8
    counts = ends
    if num_tiles > 1:
        counts = ids.new_empty(num_tiles, num_experts + 1, dtype=torch.int32)
        _count_kernel[grid](ids, counts, num_pairs, num_experts, size=size, num_warps=num_warps)
    _place_kernel[grid](
        ids, counts, pairs, rows, ends, num_pairs, num_tiles, num_experts,
        size=size, tiles=1 if num_tiles == 1 else MAX_TILES, experts=triton.next_power_of_2(num_experts + 1),
        num_warps=num_warps,
    )  # fmt: skip
    return pairs, rows, ends


def weigh(products: Tensor, rows: Tensor, ends: Tensor, weights: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    """`sum_experts` on a card."""
    (num_tokens, top_k), width = ids.shape, products.shape[1]
    out = products.new_empty(num_tokens, width)
    block = block_of(width)
    _sum_kernel[num_tokens, triton.cdiv(width, block)](
        products, rows, ends, weights.contiguous(), products if bias is None else bias, ids, out, width, len(ends),
        top_k=top_k, block=block, has_bias=bias is not None,
    )  # fmt: skip
    return out


def block_of(width: int) -> int:
    """Columns of one program of four warps, whose threads each load 16 bytes of half precision."""
    return min(1024, triton.next_power_of_2(width))
