"""Triton kernel: the first keys that several sequences have in common, read once for all of them.

A program serves one key-value head of one tile of sequences that share a prefix, and one share of its keys. The queries
of the whole tile meet every key at once, as those of a prompt do, so that the work is the tensor cores' and no longer
the memory's. Where nothing is shared, programs end at once: the grid depends on the number of sequences alone.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.packed.attention.hook import AttentionSpec, AttentionStep, SharedKeys
from parquetry.workers.packed.attention.key_tile import LOG2_E, absorb
from parquetry.workers.packed.scheduling.sharing import TILE_ROWS

#: programs that keep every multiprocessor of a large card busy
TARGET_PROGRAMS = 264
MAX_SHARES = 8
#: query heads of a group that one program serves at most
MAX_MEMBERS = 4


# how many shares there are is no constant: each would be a kernel of its own to compile
@triton.jit(do_not_specialize=["first_part", "num_parts"])
def _shared_kernel(
    q_ptr, k_ptr, v_ptr, part_ptr, stat_ptr, table_ptr, lane_ptr, shared_ptr, start_ptr, count_ptr,
    q_stride, q_head_stride, k_block_stride, k_head_stride, v_block_stride, v_head_stride, table_stride, scale,
    first_part, num_parts,
    num_heads: tl.constexpr, group: tl.constexpr, members: tl.constexpr, num_chunks: tl.constexpr,
    key_dim: tl.constexpr, key_pad: tl.constexpr, value_dim: tl.constexpr, value_pad: tl.constexpr,
    block_size: tl.constexpr, rows: tl.constexpr, tile: tl.constexpr, softcap: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    kv_head, share, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(count_ptr + which // num_chunks)
    if count > 0:
        start = tl.load(start_ptr + which // num_chunks)
        length = tl.load(shared_ptr + start)
        table = table_ptr + tl.load(lane_ptr + start).to(tl.int64) * table_stride
        query = tl.arange(0, rows * members)
        member = which % num_chunks * members + query % members
        real = (query // members < count) & (member < group)
        row, head = (start + query // members).to(tl.int64), kv_head * group + member
        key_at, value_at = tl.arange(0, key_pad), tl.arange(0, value_pad)
        q_at = (row * q_stride + head * q_head_stride)[:, None] + key_at[None, :]
        q = tl.load(q_ptr + q_at, mask=real[:, None] & (key_at[None, :] < key_dim), other=0.0)
        top = tl.full([rows * members], float("-inf"), tl.float32)
        total = tl.zeros([rows * members], tl.float32)
        acc = tl.zeros([rows * members, value_pad], tl.float32)
        # whole blocks are shared, and a block is a whole number of tiles
        num_shares = num_parts - first_part
        length_of_share = (length // tile + num_shares - 1) // num_shares * tile
        first = share * length_of_share
        for at in range(first, tl.minimum(first + length_of_share, length), tile):
            acc, total, top = absorb(
                acc, total, top, q, k_ptr, v_ptr, table, at, length, query, kv_head, scale,
                k_block_stride, k_head_stride, v_block_stride, v_head_stride, key_dim, key_pad, value_dim,
                value_pad, block_size, tile, False, 0, softcap, precision,
            )  # fmt: skip
        part = (row * num_heads + head) * num_parts + first_part + share
        tl.store(part_ptr + part[:, None] * value_pad + value_at[None, :], acc, mask=real[:, None])
        tl.store(stat_ptr + part * 2, top / LOG2_E, mask=real)
        tl.store(stat_ptr + part * 2 + 1, total, mask=real)


def choose_num_shares(num_rows: int, num_kv_heads: int) -> int:
    """Shares of the common keys, so that few tiles still fill the card."""
    wanted = max(1, TARGET_PROGRAMS // max(1, triton.cdiv(num_rows, TILE_ROWS) * num_kv_heads))
    return min(MAX_SHARES, 1 << (wanted.bit_length() - 1))


def attend_shared(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, partial: Tensor, stats: Tensor,
    step: AttentionStep, shared: SharedKeys, spec: AttentionSpec, *, first_part: int,
) -> None:  # fmt: skip
    """Fill the parts from `first_part` on of the rows that share keys.

    q (num_decodes, num_heads, key_dim), partial (num_decodes, num_heads, num_parts, value_pad) float32: values weighted
    by exp(score - top), stats (num_decodes, num_heads, num_parts, 2) float32: top, and the sum of the weights.
    """
    num_heads, key_dim = q.shape[1:]
    num_kv_heads, value_dim = k_cache.shape[1], v_cache.shape[3]
    group = num_heads // num_kv_heads
    members = min(MAX_MEMBERS, triton.next_power_of_2(group))
    chunks = triton.cdiv(group, members)
    key_pad = triton.next_power_of_2(key_dim)
    tile = 32 if step.block_size % 32 == 0 else 16
    _shared_kernel[(num_kv_heads, partial.shape[2] - first_part, chunks * len(shared.starts))](
        q, k_cache, v_cache, partial, stats, step.tables, step.decode_lanes, shared.lens, shared.starts, shared.counts,
        q.stride(0), q.stride(1), k_cache.stride(0), k_cache.stride(1), v_cache.stride(0), v_cache.stride(1),
        step.tables.stride(0), spec.scale, first_part, partial.shape[2],
        num_heads=num_heads, group=group, members=members, num_chunks=chunks,
        key_dim=key_dim, key_pad=key_pad, value_dim=value_dim, value_pad=triton.next_power_of_2(value_dim),
        block_size=step.block_size, rows=TILE_ROWS, tile=tile, softcap=spec.softcap,
        precision="ieee" if q.element_size() == 4 else "tf32",
        num_warps=4, num_stages=2 if key_pad > 128 or q.element_size() == 4 else 3,
    )  # fmt: skip
