"""Gluon kernel for Hopper cards: chunks of queries against paged keys and values, at the rate of the matrix units.

Three parties share a program. One warp has the copy engine bring tiles of keys and values, block by block, into two
rings of shared memory; two groups of four warps attend to them, each for 64 rows of queries, and give the places back.
While a group weighs the scores of one tile, the matrix units multiply the weights of the tile before with its values.

Rows are pairs of a token and a query head of one group of heads, so that a tile is brought once for the whole group.
A ring is a tuple: its places, and for each place a barrier that says it is full and one that says it is free.
"""

# Gluon reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

LOG2_E = gl.constexpr(1.4426950408889634)
#: rows of one group of warps, and of a program
GROUP_ROWS = gl.constexpr(64)
ROWS = gl.constexpr(128)
#: columns that one copy brings: as wide as shared memory is swizzled
PIECE = gl.constexpr(64)
#: registers of a thread that attends, and of one that brings; three times four warps have 168 each on average
ATTENDING_REGISTERS = gl.constexpr(240)
BRINGING_REGISTERS = gl.constexpr(24)


@gluon.jit
def new_ring(dtype: gl.constexpr, places: gl.constexpr, tile: gl.constexpr, dim: gl.constexpr):
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([tile, dim], dtype)
    bufs = gl.allocate_shared_memory(dtype, [places, tile, dim], layout)
    full = gl.allocate_shared_memory(gl.int64, [places, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [places, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(places):
        mbarrier.init(full.index(place), 1)
        # both groups give a place back
        mbarrier.init(free.index(place), 2)
    return bufs, full, free


@gluon.jit
def bring_tile(
    desc, ring, place, phase, table, at, last_block, kv_head,
    kv_heads: gl.constexpr, block_size: gl.constexpr, page: gl.constexpr, tile: gl.constexpr, dim: gl.constexpr,
):  # fmt: skip
    """Copy the tile at `at`, `page` rows and PIECE columns at a time, once its place is free."""
    bufs, full, free = ring
    mbarrier.wait(free.index(place), phase)
    mbarrier.expect(full.index(place), tile * dim * 2)
    # what the matrix units read as one tile lies there as pieces of PIECE columns
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([tile, PIECE], desc.dtype)
    pieces = bufs.index(place)._reinterpret(desc.dtype, [dim // PIECE, tile, PIECE], layout)
    for first in gl.static_range(0, tile, page):
        # a tile may reach beyond the blocks of its sequence
        block = gl.load(table + gl.minimum((at + first) // block_size, last_block))
        row = (block * kv_heads + kv_head) * block_size + (at + first) % block_size
        for piece in gl.static_range(dim // PIECE):
            to = pieces.index(piece).slice(first, page, dim=0)
            tma.async_copy_global_to_shared(desc, [row, piece * PIECE], full.index(place), to)


@gluon.jit
def bring(
    k_desc, v_desc, k_ring, v_ring, table, start, stop, length, kv_head,
    kv_heads: gl.constexpr, block_size: gl.constexpr, page: gl.constexpr, tile: gl.constexpr, dim: gl.constexpr,
    places: gl.constexpr,
):  # fmt: skip
    place, phase = 0, 1
    last_block = (length - 1) // block_size
    for at in range(start, stop, tile):
        bring_tile(k_desc, k_ring, place, phase, table, at, last_block, kv_head, kv_heads, block_size, page, tile, dim)
        bring_tile(v_desc, v_ring, place, phase, table, at, last_block, kv_head, kv_heads, block_size, page, tile, dim)
        place += 1
        if place == places:
            place = 0
            phase ^= 1


@gluon.jit
def weigh(
    scores, total, top, at, position, lowest, highest, scale,
    tile: gl.constexpr, sliding_window: gl.constexpr, softcap: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """Weights of one tile, and the running softmax. `lowest` and `highest` are the positions of the group's rows.

    Scores are kept in powers of two, whose exponential is one instruction.
    """
    factor = scale * LOG2_E
    if softcap > 0.0:
        # softcap * tanh(scores / softcap)
        scores = softcap * (2.0 / (1.0 + gl.exp2(-2.0 * LOG2_E * scale / softcap * scores)) - 1.0)
        factor = LOG2_E
    if (at + tile - 1 > lowest) | ((sliding_window > 0) & (at <= highest - sliding_window)):
        key = at + gl.arange(0, tile, layout=gl.SliceLayout(0, layout))
        seen = key[None, :] <= position[:, None]
        if sliding_window > 0:
            seen = seen & (position[:, None] - key[None, :] < sliding_window)
        scores = gl.where(seen, scores, float("-inf"))
    new_top = gl.maximum(top, gl.max(scores, 1) * factor)
    # Behind a sliding window a row may have seen no key yet; its maximum is -inf and must not turn into NaN.
    safe_top = gl.where(new_top == float("-inf"), 0.0, new_top)
    weights = gl.exp2(scores * factor - safe_top[:, None])
    fade = gl.exp2(top - safe_top)
    return weights, fade, total * fade + gl.sum(weights, 1), new_top


@gluon.jit
def clear_behind(buf, at, length, tile: gl.constexpr, dim: gl.constexpr):
    """Zeros for values behind the sequence, another row's: its NaN would be one under a weight of zero as well.

    Both groups do it, each before it reads: they write the same.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // dim, dim // 8], [4, 1], [1, 0])
    key = at + gl.arange(0, tile, layout=gl.SliceLayout(1, layout))
    values = buf.load(layout)
    buf.store(gl.where((key < length)[:, None], values, gl.zeros([tile, dim], values.dtype, layout)))
    fence_async_shared()


@gluon.jit
def attend(
    q_ptr, out_ptr, sink_ptr, q_stride, q_head_stride, scale, begin, count, length, first, start, stop, kv_head,
    q_buf, k_ring, v_ring,
    num_heads: gl.constexpr, group_size: gl.constexpr, tile: gl.constexpr, dim: gl.constexpr, places: gl.constexpr,
    sliding_window: gl.constexpr, softcap: gl.constexpr, has_sinks: gl.constexpr,
):  # fmt: skip
    """Rows [first, first + GROUP_ROWS) of a chunk against the keys [start, stop)."""
    k_bufs, k_full, k_free = k_ring
    v_bufs, v_full, v_free = v_ring
    dtype: gl.constexpr = q_ptr.dtype.element_ty
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, tile, 16])
    out_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, dim, 16])
    weight_layout: gl.constexpr = gl.DotOperandLayout(0, out_layout, 2)
    row_layout: gl.constexpr = gl.SliceLayout(1, out_layout)
    memory_layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // dim, dim // 8], [4, 1], [1, 0])

    at_row = first + gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, memory_layout))
    at_dim = gl.arange(0, dim, layout=gl.SliceLayout(0, memory_layout))
    token, head = at_row // group_size, kv_head * group_size + at_row % group_size
    q_row = (begin + token).to(gl.int64)
    q_at = (q_row * q_stride + head * q_head_stride)[:, None] + at_dim[None, :]
    q_buf.store(gl.load(q_ptr + q_at, mask=(token < count)[:, None], other=0.0))
    fence_async_shared()

    before = length - count
    row = first + gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, score_layout))
    position = before + row // group_size
    lowest, highest = before + first // group_size, before + (first + GROUP_ROWS - 1) // group_size
    top = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, score_layout))
    total = gl.full([GROUP_ROWS], 0.0, gl.float32, gl.SliceLayout(1, score_layout))
    acc = gl.zeros([GROUP_ROWS, dim], gl.float32, out_layout)
    nothing = gl.zeros([GROUP_ROWS, tile], gl.float32, score_layout)

    mbarrier.wait(k_full.index(0), 0)
    scores = warpgroup_mma(q_buf, k_bufs.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=(scores,))
    mbarrier.arrive(k_free.index(0))
    weights, fade, total, top = weigh(
        scores, total, top, start, position, lowest, highest, scale, tile, sliding_window, softcap, score_layout
    )
    weights = gl.convert_layout(weights.to(dtype), weight_layout)
    place, phase = 0, 0
    for at in range(start + tile, stop, tile):
        last, last_phase = place, phase
        place += 1
        if place == places:
            place = 0
            phase ^= 1
        mbarrier.wait(k_full.index(place), phase)
        scores = warpgroup_mma(q_buf, k_bufs.index(place).permute((1, 0)), nothing, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(last), last_phase)
        sums = warpgroup_mma(weights, v_bufs.index(last), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=(scores,))
        mbarrier.arrive(k_free.index(place))
        next_weights, fade, total, top = weigh(
            scores, total, top, at, position, lowest, highest, scale, tile, sliding_window, softcap, score_layout
        )
        acc = warpgroup_mma_wait(0, deps=(sums,))
        mbarrier.arrive(v_free.index(last))
        acc = acc * gl.convert_layout(fade, row_layout)[:, None]
        weights = gl.convert_layout(next_weights.to(dtype), weight_layout)
    mbarrier.wait(v_full.index(place), phase)
    if stop > length:
        clear_behind(v_bufs.index(place), stop - tile, length, tile, dim)
    acc = warpgroup_mma(weights, v_bufs.index(place), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=(acc,))

    if has_sinks:
        sink = gl.load(sink_ptr + kv_head * group_size + row % group_size).to(gl.float32) * LOG2_E
        last_top = gl.maximum(top, sink)
        fade = gl.exp2(top - last_top)
        total = total * fade + gl.exp2(sink - last_top)
        acc = acc * gl.convert_layout(fade, row_layout)[:, None]
    acc = acc / gl.convert_layout(total, row_layout)[:, None]
    out_at = ((q_row * num_heads + head) * dim)[:, None] + at_dim[None, :]
    gl.store(out_ptr + out_at, gl.convert_layout(acc.to(dtype), memory_layout), mask=(token < count)[:, None])


@gluon.jit
def hopper_kernel(
    q_ptr, k_desc, v_desc, out_ptr, sink_ptr, table_ptr, lane_ptr, len_ptr, cu_ptr,
    q_stride, q_head_stride, table_stride, scale,
    num_heads: gl.constexpr, kv_heads: gl.constexpr, dim: gl.constexpr, block_size: gl.constexpr, page: gl.constexpr,
    tile: gl.constexpr, places: gl.constexpr,
    sliding_window: gl.constexpr, softcap: gl.constexpr, has_sinks: gl.constexpr,
):  # fmt: skip
    """A program: ROWS rows of one key-value head and one chunk. The last ones see the most keys and start first."""
    kv_head, chunk = gl.program_id(1), gl.program_id(2)
    group_size: gl.constexpr = num_heads // kv_heads
    begin = gl.load(cu_ptr + chunk)
    count = gl.load(cu_ptr + chunk + 1) - begin
    first = (gl.num_programs(0) - 1 - gl.program_id(0)) * ROWS
    if first < count * group_size:
        length = gl.load(len_ptr + chunk)
        before = length - count
        table = table_ptr + gl.load(lane_ptr + chunk).to(gl.int64) * table_stride
        stop = gl.minimum(before + (first + ROWS - 1) // group_size, length - 1) // tile * tile + tile
        start = 0
        if sliding_window > 0:
            start = gl.maximum(before + first // group_size - sliding_window + 1, 0) // tile * tile
        dtype: gl.constexpr = k_desc.dtype
        q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([GROUP_ROWS, dim], dtype)
        q_bufs = gl.allocate_shared_memory(dtype, [2, GROUP_ROWS, dim], q_layout)
        k_ring = new_ring(dtype, places, tile, dim)
        v_ring = new_ring(dtype, places, tile, dim)
        fence_async_shared()
        gl.warp_specialize(
            [
                (attend, (
                    q_ptr, out_ptr, sink_ptr, q_stride, q_head_stride, scale, begin, count, length, first, start, stop,
                    kv_head, q_bufs.index(0), k_ring, v_ring,
                    num_heads, group_size, tile, dim, places, sliding_window, softcap, has_sinks,
                )),
                (attend, (
                    q_ptr, out_ptr, sink_ptr, q_stride, q_head_stride, scale, begin, count, length, first + GROUP_ROWS,
                    start, stop, kv_head, q_bufs.index(1), k_ring, v_ring,
                    num_heads, group_size, tile, dim, places, sliding_window, softcap, has_sinks,
                )),
                (bring, (
                    k_desc, v_desc, k_ring, v_ring, table, start, stop, length, kv_head,
                    kv_heads, block_size, page, tile, dim, places,
                )),
            ],
            [4, 1],
            [ATTENDING_REGISTERS, BRINGING_REGISTERS],
        )  # fmt: skip
