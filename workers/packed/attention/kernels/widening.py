"""Triton kernel: keys and values that are kept in float8, as the queries' dtype, for the chunks of one step.

Chunks attend to each key many times, so it is made wide once, and their kernels read it as if it were kept so.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionCall

#: most tokens that are made wide; beyond it chunks read what is kept
MAX_TOKENS = 131072
#: numbers that a program takes at a time
PIECE = 1024


@triton.jit
def _widen_kernel(
    cache_ptr, wide_ptr, table_ptr, lane_ptr, len_ptr, table_stride, block_numbers, width,
    block_size: tl.constexpr, piece: tl.constexpr,
):  # fmt: skip
    column, chunk = tl.program_id(0), tl.program_id(1)
    if column * block_size < tl.load(len_ptr + chunk):
        lane = tl.load(lane_ptr + chunk).to(tl.int64)
        block = tl.load(table_ptr + lane * table_stride + column).to(tl.int64)
        wide = (chunk * width + column).to(tl.int64)
        for first in range(0, block_numbers, piece):
            at = first + tl.arange(0, piece)
            x = tl.load(cache_ptr + block * block_numbers + at, mask=at < block_numbers, other=0.0)
            tl.store(wide_ptr + wide * block_numbers + at, x.to(wide_ptr.dtype.element_ty), mask=at < block_numbers)


def widen(cache: Tensor, call: AttentionCall, width: int) -> Tensor:
    """The blocks of the chunks' contexts, `width` for each, in the queries' dtype."""
    chunks, step = call.prefill, call.step
    wide = call.q.new_empty(len(chunks.lanes) * width, *cache.shape[1:])
    _widen_kernel[(width, len(chunks.lanes))](
        cache, wide, step.tables, chunks.lanes, chunks.context_lens, step.tables.stride(0), cache[0].numel(), width,
        block_size=step.block_size, piece=PIECE, num_warps=4,
    )  # fmt: skip
    return wide


def widened(call: AttentionCall) -> AttentionCall:
    """The call over wide keys and values; itself where they are wide, or too many."""
    chunks = call.prefill
    width = -(-max(chunks.host_context_lens) // call.step.block_size)
    count = len(chunks.lanes) * width
    if call.k_cache.dtype == call.q.dtype or count * call.step.block_size > MAX_TOKENS:
        return call
    device = chunks.lanes.device
    tables = torch.arange(count, dtype=torch.int32, device=device).view(-1, width)
    lanes = torch.arange(len(tables), dtype=torch.int32, device=device)
    k, v = (widen(cache, call, width) for cache in (call.k_cache, call.v_cache))
    step = replace(call.step, tables=tables, prefill=replace(chunks, lanes=lanes))
    return replace(call, k_cache=k, v_cache=v, step=step)
