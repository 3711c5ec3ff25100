"""Triton kernel: one new token per sequence against its paged keys and values, heads of a query group together.

A program serves one key-value head of one sequence and one split of its stored keys; with more than one split a second
kernel joins them. The last split takes the new key and value from the registers they came in, and stores them. What
several sequences have in common is left to `shared_prefix`, whose results are joined as further splits. The grid
depends on the number of sequences alone, never on their lengths, so it can be replayed.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionCall, SharedKeys
from parquetry.workers.packed.attention.kernels.key_tile import soft_cap
from parquetry.workers.packed.attention.kernels.shared_prefix import attend_shared, choose_num_shared_splits
from parquetry.workers.packed.attention.kernels.splits import Splits, join
from parquetry.workers.packed.attention.kernels.store import to_stored

#: programs that keep every multiprocessor of a large card busy
TARGET_PROGRAMS = 528
MAX_SPLITS = 16


class Launch(NamedTuple):
    """How the decode kernel is cut: keys per iteration, warps per program, loads in flight."""

    tile: int
    num_warps: int
    num_stages: int


NARROW = Launch(32, 2, 4)
#: for so few programs, or such short keys, that each has to keep more loads in flight
DEEP = Launch(32, 2, 6)
WIDE = Launch(32, 4, 2)


# how the keys are shared out is no constant: each would be a kernel of its own to compile
@triton.jit(do_not_specialize=["num_own", "num_splits"])
def _decode_kernel(
    q_ptr, new_k_ptr, new_v_ptr, k_ptr, v_ptr, out_ptr, partial_ptr, stat_ptr, sink_ptr, table_ptr, lane_ptr,
    len_ptr, shared_ptr, q_stride, q_head_stride, new_k_stride, new_k_head_stride, new_v_stride, new_v_head_stride,
    k_block_stride, k_head_stride, v_block_stride, v_head_stride, table_stride, scale, num_own, num_splits,
    num_heads: tl.constexpr, group_size: tl.constexpr, group_pad: tl.constexpr,
    key_dim: tl.constexpr, key_pad: tl.constexpr, value_dim: tl.constexpr, value_pad: tl.constexpr,
    block_size: tl.constexpr, tile: tl.constexpr, is_whole: tl.constexpr,
    sliding_window: tl.constexpr, softcap: tl.constexpr, has_sinks: tl.constexpr, has_shared: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    kv_head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    last = tl.load(len_ptr + row) - 1
    table = table_ptr + tl.load(lane_ptr + row).to(tl.int64) * table_stride
    member = tl.arange(0, group_pad)
    head = kv_head * group_size + member
    in_group = member < group_size
    key_at, value_at = tl.arange(0, key_pad), tl.arange(0, value_pad)
    q_at = row.to(tl.int64) * q_stride + head[:, None] * q_head_stride + key_at[None, :]
    q = tl.load(q_ptr + q_at, mask=in_group[:, None] & (key_at[None, :] < key_dim), other=0.0)

    first = 0
    if sliding_window > 0:
        first = tl.maximum(last + 1 - sliding_window, 0)
    if has_shared:
        first = tl.load(shared_ptr + row)
    num_tiles = (last - first // tile * tile + tile - 1) // tile
    split_tiles = (num_tiles + num_own - 1) // num_own
    start = first // tile * tile + split * split_tiles * tile
    stop = tl.minimum(start + split_tiles * tile, last)

    top = tl.full([group_pad], float("-inf"), tl.float32)
    total = tl.zeros([group_pad], tl.float32)
    acc = tl.zeros([group_pad, value_pad], tl.float32)
    offsets = tl.arange(0, tile)
    for at in range(start, stop, tile):
        key = at + offsets
        seen = (key < last) & (key >= first)
        if block_size >= tile:
            block = tl.load(table + at // block_size).to(tl.int64)
            k_base, v_base = block * k_block_stride, block * v_block_stride
            slot = at % block_size + offsets
            k_at = k_base + kv_head * k_head_stride + slot[None, :] * key_dim + key_at[:, None]
            v_at = v_base + kv_head * v_head_stride + slot[:, None] * value_dim + value_at[None, :]
        else:
            block = tl.load(table + key // block_size, mask=key < last, other=0).to(tl.int64)
            slot = key % block_size
            k_row = block * k_block_stride + kv_head * k_head_stride + slot * key_dim
            v_row = block * v_block_stride + kv_head * v_head_stride + slot * value_dim
            k_at = k_row[None, :] + key_at[:, None]
            v_at = v_row[:, None] + value_at[None, :]
        k = tl.load(k_ptr + k_at, mask=(key < last)[None, :] & (key_at[:, None] < key_dim), other=0.0)
        v = tl.load(v_ptr + v_at, mask=(key < last)[:, None] & (value_at[None, :] < value_dim), other=0.0)
        k, v = k.to(q.dtype), v.to(q.dtype)
        scores = tl.dot(q, k, input_precision=precision) * scale
        if softcap > 0.0:
            scores = soft_cap(scores, softcap)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A tile may hold no visible key at all; its maximum is -inf and must not turn into NaN.
        safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp(scores - safe_top[:, None])
        fade = tl.exp(top - safe_top)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=precision)
        top = new_top

    if split == num_own - 1:
        new_k_at = row.to(tl.int64) * new_k_stride + kv_head * new_k_head_stride + key_at
        new_v_at = row.to(tl.int64) * new_v_stride + kv_head * new_v_head_stride + value_at
        new_k = tl.load(new_k_ptr + new_k_at, mask=key_at < key_dim, other=0.0)
        new_v = tl.load(new_v_ptr + new_v_at, mask=value_at < value_dim, other=0.0)
        block = tl.load(table + last // block_size).to(tl.int64)
        slot = last % block_size
        k_row = block * k_block_stride + kv_head * k_head_stride + slot * key_dim
        v_row = block * v_block_stride + kv_head * v_head_stride + slot * value_dim
        tl.store(k_ptr + k_row + key_at, to_stored(new_k, k_ptr), mask=key_at < key_dim)
        tl.store(v_ptr + v_row + value_at, to_stored(new_v, v_ptr), mask=value_at < value_dim)
        score = tl.sum(q.to(tl.float32) * new_k.to(tl.float32)[None, :], 1) * scale
        if softcap > 0.0:
            score = soft_cap(score, softcap)
        new_top = tl.maximum(top, score)
        weight, fade = tl.exp(score - new_top), tl.exp(top - new_top)
        total = total * fade + weight
        acc = acc * fade[:, None] + weight[:, None] * new_v.to(tl.float32)[None, :]
        top = new_top

    if is_whole:
        if has_sinks:
            sink = tl.load(sink_ptr + head, mask=in_group, other=0.0).to(tl.float32)
            last_top = tl.maximum(top, sink)
            fade = tl.exp(top - last_top)
            total = total * fade + tl.exp(sink - last_top)
            acc = acc * fade[:, None]
        out_at = (row.to(tl.int64) * num_heads + head[:, None]) * value_dim + value_at[None, :]
        kept = in_group[:, None] & (value_at[None, :] < value_dim)
        tl.store(out_ptr + out_at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=kept)
    else:
        at_split = (row.to(tl.int64) * num_heads + head) * num_splits + split
        tl.store(partial_ptr + at_split[:, None] * value_pad + value_at[None, :], acc, mask=in_group[:, None])
        tl.store(stat_ptr + at_split * 2, top, mask=in_group)
        tl.store(stat_ptr + at_split * 2 + 1, total, mask=in_group)


def choose_num_splits(num_rows: int, num_kv_heads: int) -> int:
    """Splits of the keys per sequence, so that few sequences still fill the card."""
    wanted = max(1, TARGET_PROGRAMS // max(1, num_rows * num_kv_heads))
    return min(MAX_SPLITS, 1 << (wanted.bit_length() - 1))


def choose_launch(num_programs: int, key_pad: int, itemsize: int) -> Launch:
    """The cut that read fastest on an H100, by `num_programs` and bytes of a key."""
    if key_pad > 128:
        return WIDE
    if itemsize == 1:
        return DEEP
    return DEEP if num_programs <= 2 * TARGET_PROGRAMS and itemsize == 2 else NARROW


def paged_decode(call: AttentionCall) -> Tensor:
    """Store k and v of the decodes and attend, as `AttentionBackend.decode`. All have innermost stride 1."""
    # behind a sliding window there is hardly anything to share
    shared = None if call.spec.sliding_window else call.step.shared
    num_rows, num_kv_heads = call.k.shape[:2]
    num_own = choose_num_splits(num_rows, num_kv_heads)
    num_shared = 0 if shared is None else choose_num_shared_splits(num_rows, num_kv_heads)
    out = call.q.new_empty(*call.q.shape[:2], call.v_cache.shape[3])
    splits = Splits.of(out, num_own, num_shared)
    if shared is not None:
        attend_shared(call, shared, splits)
    _decode(call, out, splits, shared)
    if splits.num_all > 1:
        join(out, splits, call.spec.sinks, shared)
    return out


def _decode(call: AttentionCall, out: Tensor, splits: Splits, shared: SharedKeys | None) -> None:
    q, k, v, k_cache, v_cache, step, spec = call.q, call.k, call.v, call.k_cache, call.v_cache, call.step, call.spec
    num_rows, num_heads, key_dim = q.shape
    num_kv_heads, value_dim = k_cache.shape[1], v_cache.shape[3]
    group_size, key_pad = num_heads // num_kv_heads, triton.next_power_of_2(key_dim)
    launch = choose_launch(num_kv_heads * splits.num_own * num_rows, key_pad, k_cache.element_size())
    _decode_kernel[(num_kv_heads, splits.num_own, num_rows)](
        q, k, v, k_cache, v_cache, out, splits.values, splits.stats, out if spec.sinks is None else spec.sinks,
        step.tables, step.decode_lanes, step.decode_lens, step.decode_lens if shared is None else shared.lens,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        k_cache.stride(0), k_cache.stride(1), v_cache.stride(0), v_cache.stride(1),
        step.tables.stride(0), spec.scale, splits.num_own, splits.num_all,
        num_heads=num_heads, group_size=group_size, group_pad=max(16, triton.next_power_of_2(group_size)),
        key_dim=key_dim, key_pad=key_pad, value_dim=value_dim, value_pad=triton.next_power_of_2(value_dim),
        block_size=step.block_size, tile=launch.tile, is_whole=splits.num_all == 1,
        sliding_window=spec.sliding_window, softcap=spec.softcap,
        has_sinks=spec.sinks is not None, has_shared=shared is not None,
        precision="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
