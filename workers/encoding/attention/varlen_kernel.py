"""Triton kernel: attention inside rows laid end to end, for rows too short to fill a general kernel's tiles."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.encoding.attention.tiles import TileShape

#: programs a multiprocessor is given, many times what it holds at once, so that all of them end together; each walks
#: over several tiles (at 8 the kernel took 5-15% longer on an H200)
_PROGRAMS_PER_CORE = 64


@triton.jit
def _visit(
    q, query, top, total, acc, k_ptr, v_ptr, k_stride, v_stride, key_start, stop, at, scale,
    dim: tl.constexpr, keys: tl.constexpr, sliding_window: tl.constexpr, causal: tl.constexpr, masked: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """One block of keys into the running softmax; `masked` False promises that every query sees every key of it."""
    key = key_start + tl.arange(0, keys)
    k_at = key.to(tl.int64)[None, :] * k_stride + at[:, None]
    v_at = key.to(tl.int64)[:, None] * v_stride + at[None, :]
    if masked:
        k = tl.load(k_ptr + k_at, mask=(key < stop)[None, :] & (at < dim)[:, None], other=0.0)
        v = tl.load(v_ptr + v_at, mask=(key < stop)[:, None] & (at < dim)[None, :], other=0.0)
    else:
        k = tl.load(k_ptr + k_at, mask=(at < dim)[:, None], other=0.0)
        v = tl.load(v_ptr + v_at, mask=(at < dim)[None, :], other=0.0)
    scores = tl.dot(q, k, input_precision=precision)
    if masked:
        seen = (key < stop)[None, :]
        if causal:
            seen = seen & (key[None, :] <= query[:, None])
        if sliding_window > 0:
            seen = (
                seen
                & (key[None, :] - query[:, None] < sliding_window)
                & (query[:, None] - key[None, :] < sliding_window)
            )
        scores = tl.where(seen, scores, float("-inf"))
    # scale holds log2(e), so that exp2 serves as exp; it is positive and comes last, where it costs no operation
    new_top = tl.maximum(top, tl.max(scores, 1) * scale)
    # a query that has seen no key yet must not make NaN of -inf - -inf
    safe = tl.where(new_top == float("-inf"), 0.0, new_top) if masked else new_top
    weights = tl.exp2(scores * scale - safe[:, None])
    fade = tl.exp2(top - safe)
    total = total * fade + tl.sum(weights, 1)
    acc = acc * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=precision)
    return new_top, total, acc


@triton.jit
def _varlen_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, tile_ptr, count_ptr,
    q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride, scale,
    num_heads: tl.constexpr, query_group: tl.constexpr, dim: tl.constexpr, dim_pad: tl.constexpr,
    rows: tl.constexpr, keys: tl.constexpr, sliding_window: tl.constexpr, causal: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    at = tl.arange(0, dim_pad)
    work = tl.load(count_ptr) * num_heads
    for item in range(tl.program_id(0), work, tl.num_programs(0)):
        tile, head = item // num_heads, item % num_heads
        begin = tl.load(tile_ptr + tile * 3)
        end = tl.load(tile_ptr + tile * 3 + 1)
        first = tl.load(tile_ptr + tile * 3 + 2)
        query = first + tl.arange(0, rows)
        q_at = query.to(tl.int64)[:, None] * q_stride + head * q_head_stride + at[None, :]
        q_mask = (query < end)[:, None] & (at < dim)[None, :]
        q = tl.load(q_ptr + q_at, mask=q_mask, other=0.0)
        k_head, v_head = k_ptr + (head // query_group) * k_head_stride, v_ptr + (head // query_group) * v_head_stride
        top = tl.full([rows], float("-inf"), tl.float32)
        total = tl.zeros([rows], tl.float32)
        acc = tl.zeros([rows, dim_pad], tl.float32)
        start, stop = begin, end
        if sliding_window > 0:
            start = tl.maximum(begin, first - sliding_window + 1)
            stop = tl.minimum(end, first + rows + sliding_window - 1)
        if causal:
            stop = tl.minimum(stop, first + rows)
        # [start, plain) needs no mask, [plain, stop) does
        plain = start
        if sliding_window == 0 and not causal:
            plain = start + (stop - start) // keys * keys
        for key_start in range(start, plain, keys):
            top, total, acc = _visit(
                q, query, top, total, acc, k_head, v_head, k_stride, v_stride, key_start, stop, at, scale,
                dim, keys, sliding_window, causal, False, precision,
            )  # fmt: skip
        for key_start in range(plain, stop, keys):
            top, total, acc = _visit(
                q, query, top, total, acc, k_head, v_head, k_stride, v_stride, key_start, stop, at, scale,
                dim, keys, sliding_window, causal, True, precision,
            )  # fmt: skip
        out_at = (query.to(tl.int64)[:, None] * num_heads + head) * dim + at[None, :]
        tl.store(out_ptr + out_at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=q_mask)


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, count: Tensor, shape: TileShape,
    scale: float, sliding_window: int, causal: bool,
) -> Tensor:  # fmt: skip
    """q (num_tokens, heads, dim), k and v (num_tokens, kv_heads, dim), last dimension contiguous; returns q's shape.

    `table` holds the `tiles(cu_seqlens, shape.rows)`. It may be longer than the `count` (1,) int32
    tiles in use, so one captured launch serves every batch. Tokens in no tile are left as they were allocated.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    heads, dim = q.shape[1:]
    _varlen_kernel[(_num_programs(q.device, len(table) * heads),)](
        q, k, v, out, table, count,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), scale * 1.4426950408889634,
        num_heads=heads, query_group=heads // k.shape[1], dim=dim, dim_pad=max(16, triton.next_power_of_2(dim)),
        rows=shape.rows, keys=shape.keys, sliding_window=sliding_window, causal=causal,
        precision="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=shape.num_warps, num_stages=shape.num_stages,
    )  # fmt: skip
    return out


def _num_programs(device: torch.device, work: int) -> int:
    if device.type != "cuda":
        return min(work, 4)
    return min(work, _PROGRAMS_PER_CORE * torch.cuda.get_device_properties(device).multi_processor_count)
