"""Triton kernel: chunks of queries against paged keys and values, for prompts that have something before the chunk."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.kernels.key_tile import LOG2_E, absorb


@triton.jit
def _prefill_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, sink_ptr, table_ptr, lane_ptr, len_ptr, cu_ptr,
    q_stride, q_head_stride, k_block_stride, k_head_stride, v_block_stride, v_head_stride, table_stride, scale,
    num_heads: tl.constexpr, group_size: tl.constexpr,
    key_dim: tl.constexpr, key_pad: tl.constexpr, value_dim: tl.constexpr, value_pad: tl.constexpr,
    block_size: tl.constexpr, rows: tl.constexpr, tile: tl.constexpr,
    sliding_window: tl.constexpr, softcap: tl.constexpr, has_sinks: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    head, chunk = tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(cu_ptr + chunk), tl.load(cu_ptr + chunk + 1)
    # The last rows of a chunk see the most keys: start them first.
    row_start = (tl.num_programs(0) - 1 - tl.program_id(0)) * rows
    if row_start < end - begin:
        length = tl.load(len_ptr + chunk)
        before = length - (end - begin)
        table = table_ptr + tl.load(lane_ptr + chunk).to(tl.int64) * table_stride
        kv_head = head // group_size
        row = row_start + tl.arange(0, rows)
        real = row < end - begin
        position = before + row
        key_at, value_at = tl.arange(0, key_pad), tl.arange(0, value_pad)
        q_row = (begin + row).to(tl.int64)
        q_at = q_row[:, None] * q_stride + head * q_head_stride + key_at[None, :]
        q = tl.load(q_ptr + q_at, mask=real[:, None] & (key_at[None, :] < key_dim), other=0.0)
        top = tl.full([rows], float("-inf"), tl.float32)
        total = tl.zeros([rows], tl.float32)
        acc = tl.zeros([rows, value_pad], tl.float32)
        # [0, clear) every row sees every key; [clear, stop) is masked.
        clear = (before + row_start + 1) // tile * tile
        if sliding_window > 0:
            clear = tl.maximum(before + row_start - sliding_window + 1, 0) // tile * tile
        else:
            for at in range(0, clear, tile):
                acc, total, top = absorb(
                    acc, total, top, q, k_ptr, v_ptr, table, at, length, position, kv_head, scale,
                    k_block_stride, k_head_stride, v_block_stride, v_head_stride, key_dim, key_pad, value_dim,
                    value_pad, block_size, tile, False, sliding_window, softcap, precision,
                )  # fmt: skip
        for at in range(clear, tl.minimum(before + row_start + rows, length), tile):
            acc, total, top = absorb(
                acc, total, top, q, k_ptr, v_ptr, table, at, length, position, kv_head, scale,
                k_block_stride, k_head_stride, v_block_stride, v_head_stride, key_dim, key_pad, value_dim,
                value_pad, block_size, tile, True, sliding_window, softcap, precision,
            )  # fmt: skip
        if has_sinks:
            sink = tl.load(sink_ptr + head).to(tl.float32) * LOG2_E
            last_top = tl.maximum(top, sink)
            fade = tl.exp2(top - last_top)
            total = total * fade + tl.exp2(sink - last_top)
            acc = acc * fade[:, None]
        out_at = (q_row[:, None] * num_heads + head) * value_dim + value_at[None, :]
        kept = real[:, None] & (value_at[None, :] < value_dim)
        tl.store(out_ptr + out_at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=kept)


class PrefillLaunch(NamedTuple):
    """How the prefill kernel is cut: queries per program, keys per iteration, warps, loads in flight."""

    rows: int
    tile: int
    num_warps: int
    num_stages: int


NARROW = PrefillLaunch(64, 32, 4, 4)
WIDE = PrefillLaunch(32, 32, 4, 2)


def paged_prefill(call: AttentionCall) -> Tensor:
    """Attention of the step's chunks; keys and values are read from the blocks alone. Returns (num_chunk_tokens, ...).

    The innermost stride of q is 1.
    """
    q, k_cache, v_cache, step, spec, chunks = call.q, call.k_cache, call.v_cache, call.step, call.spec, call.prefill
    num_tokens, num_heads, key_dim = q.shape
    num_kv_heads, value_dim = k_cache.shape[1], v_cache.shape[3]
    key_pad = triton.next_power_of_2(key_dim)
    launch = WIDE if key_pad > 128 or q.dtype == torch.float32 else NARROW
    out = q.new_empty(num_tokens, num_heads, value_dim)
    grid = (triton.cdiv(chunks.max_seqlen, launch.rows), num_heads, len(chunks.query_lens))
    _prefill_kernel[grid](
        q, k_cache, v_cache, out, out if spec.sinks is None else spec.sinks,
        step.tables, chunks.lanes, chunks.context_lens, chunks.cu_seqlens,
        q.stride(0), q.stride(1), k_cache.stride(0), k_cache.stride(1), v_cache.stride(0), v_cache.stride(1),
        step.tables.stride(0), spec.scale,
        num_heads=num_heads, group_size=num_heads // num_kv_heads,
        key_dim=key_dim, key_pad=key_pad, value_dim=value_dim, value_pad=triton.next_power_of_2(value_dim),
        block_size=step.block_size, rows=launch.rows, tile=launch.tile,
        sliding_window=spec.sliding_window, softcap=spec.softcap, has_sinks=spec.sinks is not None,
        precision="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out
