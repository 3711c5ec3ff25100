"""Triton kernel: the first keys that several sequences have in common, read once for all of them.

A program serves one key-value head of one tile of sequences that share a prefix, and one split of its keys. The queries
of the whole tile meet every key at once, as those of a prompt do, so that the work is the tensor cores' and no longer
the memory's. Where nothing is shared, programs end at once: the grid depends on the number of sequences alone.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from parquetry.workers.packed.attention.call import AttentionCall, SharedKeys
from parquetry.workers.packed.attention.kernels.key_tile import LOG2_E, absorb
from parquetry.workers.packed.attention.kernels.splits import Splits
from parquetry.workers.packed.scheduling.sharing import TILE_ROWS

#: programs that keep every multiprocessor of a large card busy
TARGET_PROGRAMS = 264
MAX_SHARED_SPLITS = 8
#: query heads of a query group that one program serves at most
MAX_MEMBERS = 4


# how many splits there are is no constant: each would be a kernel of its own to compile
@triton.jit(do_not_specialize=["first_split", "num_splits"])
def _shared_kernel(
    q_ptr, k_ptr, v_ptr, partial_ptr, stat_ptr, table_ptr, lane_ptr, shared_ptr, start_ptr, count_ptr,
    q_stride, q_head_stride, k_block_stride, k_head_stride, v_block_stride, v_head_stride, table_stride, scale,
    first_split, num_splits,
    num_heads: tl.constexpr, group_size: tl.constexpr, members: tl.constexpr, tiles_per_group: tl.constexpr,
    key_dim: tl.constexpr, key_pad: tl.constexpr, value_dim: tl.constexpr, value_pad: tl.constexpr,
    block_size: tl.constexpr, rows: tl.constexpr, tile: tl.constexpr, softcap: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    kv_head, split, which = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    count = tl.load(count_ptr + which // tiles_per_group)
    if count > 0:
        start = tl.load(start_ptr + which // tiles_per_group)
        length = tl.load(shared_ptr + start)
        table = table_ptr + tl.load(lane_ptr + start).to(tl.int64) * table_stride
        query = tl.arange(0, rows * members)
        member = which % tiles_per_group * members + query % members
        real = (query // members < count) & (member < group_size)
        row, head = (start + query // members).to(tl.int64), kv_head * group_size + member
        key_at, value_at = tl.arange(0, key_pad), tl.arange(0, value_pad)
        q_at = (row * q_stride + head * q_head_stride)[:, None] + key_at[None, :]
        q = tl.load(q_ptr + q_at, mask=real[:, None] & (key_at[None, :] < key_dim), other=0.0)
        top = tl.full([rows * members], float("-inf"), tl.float32)
        total = tl.zeros([rows * members], tl.float32)
        acc = tl.zeros([rows * members, value_pad], tl.float32)
        # whole blocks are shared, and a block is a whole number of tiles
        num_shared = num_splits - first_split
        split_len = (length // tile + num_shared - 1) // num_shared * tile
        first = split * split_len
        for at in range(first, tl.minimum(first + split_len, length), tile):
            acc, total, top = absorb(
                acc, total, top, q, k_ptr, v_ptr, table, at, length, query, kv_head, scale,
                k_block_stride, k_head_stride, v_block_stride, v_head_stride, key_dim, key_pad, value_dim,
                value_pad, block_size, tile, False, 0, softcap, precision,
            )  # fmt: skip
        at_split = (row * num_heads + head) * num_splits + first_split + split
        tl.store(partial_ptr + at_split[:, None] * value_pad + value_at[None, :], acc, mask=real[:, None])
        tl.store(stat_ptr + at_split * 2, top / LOG2_E, mask=real)
        tl.store(stat_ptr + at_split * 2 + 1, total, mask=real)


def choose_num_shared_splits(num_rows: int, num_kv_heads: int) -> int:
    """Splits of the common keys, so that few tiles still fill the card."""
    wanted = max(1, TARGET_PROGRAMS // max(1, triton.cdiv(num_rows, TILE_ROWS) * num_kv_heads))
    return min(MAX_SHARED_SPLITS, 1 << (wanted.bit_length() - 1))


def attend_shared(call: AttentionCall, shared: SharedKeys, splits: Splits) -> None:
    """Fill the splits behind each row's own, of the rows that share keys."""
    q, k_cache, v_cache, step, spec = call.q, call.k_cache, call.v_cache, call.step, call.spec
    num_heads, key_dim = q.shape[1:]
    num_kv_heads, value_dim = k_cache.shape[1], v_cache.shape[3]
    group_size = num_heads // num_kv_heads
    members = min(MAX_MEMBERS, triton.next_power_of_2(group_size))
    tiles_per_group = triton.cdiv(group_size, members)
    key_pad = triton.next_power_of_2(key_dim)
    tile = 32 if step.block_size % 32 == 0 else 16
    _shared_kernel[(num_kv_heads, splits.num_all - splits.num_own, tiles_per_group * len(shared.starts))](
        q, k_cache, v_cache, splits.values, splits.stats, step.tables, step.decode_lanes,
        shared.lens, shared.starts, shared.counts,
        q.stride(0), q.stride(1), k_cache.stride(0), k_cache.stride(1), v_cache.stride(0), v_cache.stride(1),
        step.tables.stride(0), spec.scale, splits.num_own, splits.num_all,
        num_heads=num_heads, group_size=group_size, members=members, tiles_per_group=tiles_per_group,
        key_dim=key_dim, key_pad=key_pad, value_dim=value_dim, value_pad=triton.next_power_of_2(value_dim),
        block_size=step.block_size, rows=TILE_ROWS, tile=tile, softcap=spec.softcap,
        precision="ieee" if q.element_size() == 4 else "tf32",
        num_warps=4, num_stages=2 if key_pad > 128 or q.element_size() == 4 else 3,
    )  # fmt: skip
