"""Triton kernel: queries against paged latents, one key-value head whose values are the first numbers of its keys.

A program serves some heads of one token and one split of the keys it sees, decodes and tokens of chunks alike: all
heads share the keys, so tensor cores are busy with a single token. Every latent is read once, as key and as value.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.kernels.key_tile import LOG2_E
from parquetry.workers.packed.attention.kernels.splits import Splits, join
from parquetry.workers.packed.attention.sdpa import to_stored

#: programs that keep a large card busy; each fills a multiprocessor
TARGET_PROGRAMS = 132
MAX_SPLITS = 16


class LatentLaunch(NamedTuple):
    """How the kernel is cut: heads per program, keys per iteration, warps per program, loads in flight."""

    heads: int
    tile: int
    num_warps: int
    num_stages: int


MANY_HEADS = LatentLaunch(64, 64, 8, 2)
FEW_HEADS = LatentLaunch(16, 32, 4, 2)


@triton.jit(do_not_specialize=["num_splits"])
def _latent_kernel(
    q_ptr, k_ptr, out_ptr, partial_ptr, stat_ptr, table_ptr, lane_ptr, len_ptr,
    q_stride, q_head_stride, block_stride, table_stride, scale, num_splits,
    num_heads: tl.constexpr, heads: tl.constexpr, rank: tl.constexpr, rank_pad: tl.constexpr,
    turned: tl.constexpr, turned_pad: tl.constexpr, block_size: tl.constexpr, tile: tl.constexpr,
    is_whole: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    token, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    head = tl.program_id(1) * heads + tl.arange(0, heads)
    is_head = head < num_heads
    length = tl.load(len_ptr + token)
    table = table_ptr + tl.load(lane_ptr + token).to(tl.int64) * table_stride
    rank_at, turned_at = tl.arange(0, rank_pad), tl.arange(0, turned_pad)
    in_rank, in_turned = rank_at < rank, turned_at < turned
    q_row = q_ptr + token * q_stride + head[:, None] * q_head_stride
    q = tl.load(q_row + rank_at[None, :], mask=is_head[:, None] & in_rank[None, :], other=0.0)
    q_turned = tl.load(q_row + rank + turned_at[None, :], mask=is_head[:, None] & in_turned[None, :], other=0.0)

    split_tiles = (tl.cdiv(length, tile) + num_splits - 1) // num_splits
    start = split * split_tiles * tile
    stop = tl.minimum(start + split_tiles * tile, length)
    top = tl.full([heads], float("-inf"), tl.float32)
    total = tl.zeros([heads], tl.float32)
    acc = tl.zeros([heads, rank_pad], tl.float32)
    for at in range(start, stop, tile):
        key = at + tl.arange(0, tile)
        real = key < length
        block = tl.load(table + key // block_size, mask=real, other=0).to(tl.int64)
        row = block * block_stride + (key % block_size) * (rank + turned)
        latent = tl.load(
            k_ptr + row[:, None] + rank_at[None, :], mask=real[:, None] & in_rank[None, :], other=0.0
        ).to(q.dtype)  # fmt: skip
        k_turned = tl.load(
            k_ptr + row[None, :] + rank + turned_at[:, None], mask=real[None, :] & in_turned[:, None], other=0.0
        ).to(q.dtype)  # fmt: skip
        scores = tl.dot(q, tl.trans(latent), input_precision=precision)
        scores += tl.dot(q_turned, k_turned, input_precision=precision)
        scores = tl.where(real[None, :], scores * (scale * LOG2_E), float("-inf"))
        # every tile holds a key that is seen, so no maximum is -inf
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(weights, 1)
        acc = acc * fade[:, None] + tl.dot(weights.to(q.dtype), latent, input_precision=precision)
        top = new_top

    if is_whole:
        out_at = (token * num_heads + head[:, None]) * rank + rank_at[None, :]
        kept = is_head[:, None] & in_rank[None, :]
        tl.store(out_ptr + out_at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=kept)
    else:
        at_split = (token * num_heads + head) * num_splits + split
        tl.store(partial_ptr + at_split[:, None] * rank_pad + rank_at[None, :], acc, mask=is_head[:, None])
        # splits are joined in powers of e
        tl.store(stat_ptr + at_split * 2, top / LOG2_E, mask=is_head)
        tl.store(stat_ptr + at_split * 2 + 1, total, mask=is_head)


def store_latents(call: AttentionCall) -> None:
    """Latents to their slots, of which each holds one."""
    keys = to_stored(call.k[:, 0], call.k_cache.dtype)
    bytes_of = (keys.contiguous(), call.k_cache.view(-1, call.k_cache.shape[3]))
    new, kept = (x.view(torch.uint8) if x.dtype.itemsize == 1 else x for x in bytes_of)
    kept.index_copy_(0, call.slot_mapping, new)


def decode_latents(call: AttentionCall) -> Tensor:
    """Store and attend, as `AttentionBackend.decode`; returns (num_decodes, num_heads, rank)."""
    store_latents(call)
    return _attend(call, call.step.decode_lanes, call.step.decode_lens)


def prefill_latents(call: AttentionCall) -> Tensor:
    """Attend to what is stored, as `AttentionBackend.prefill`; returns (num_chunk_tokens, num_heads, rank)."""
    return _attend(call, *_tokens_of_chunks(call))


def _tokens_of_chunks(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """(num_chunk_tokens,) int32 of every token: its lane, and the keys it sees."""
    chunks, total = call.prefill, len(call.q)
    counts = chunks.cu_seqlens.diff()
    lanes, ends, last = (
        torch.repeat_interleave(x, counts, output_size=total)
        for x in (chunks.lanes, chunks.cu_seqlens[1:], chunks.context_lens)
    )
    at = torch.arange(total, device=counts.device, dtype=torch.int32)
    return lanes, (last - (ends - 1 - at)).int()


def choose_launch(num_heads: int, itemsize: int) -> LatentLaunch:
    """The cut that ran fastest on an H100; numbers of four bytes leave no room for many heads."""
    return MANY_HEADS if num_heads >= MANY_HEADS.heads and itemsize == 2 else FEW_HEADS


def choose_num_splits(num_programs: int) -> int:
    """Splits of the keys, so that few tokens still fill the card; never more than it holds."""
    wanted = max(1, TARGET_PROGRAMS // max(1, num_programs))
    return min(MAX_SPLITS, 1 << (wanted.bit_length() - 1))


def _attend(call: AttentionCall, lanes: Tensor, lens: Tensor) -> Tensor:
    q, k_cache, step = call.q, call.k_cache, call.step
    (num_tokens, num_heads, _), rank = q.shape, call.v_cache.shape[3]
    turned = q.shape[2] - rank
    launch = choose_launch(num_heads, q.element_size())
    head_tiles = triton.cdiv(num_heads, launch.heads)
    out = q.new_empty(num_tokens, num_heads, rank)
    splits = Splits.of(out, choose_num_splits(num_tokens * head_tiles), 0)
    _latent_kernel[(num_tokens, head_tiles, splits.num_own)](
        q, k_cache, out, splits.values, splits.stats, step.tables, lanes, lens,
        q.stride(0), q.stride(1), k_cache.stride(0), step.tables.stride(0), call.spec.scale, splits.num_own,
        num_heads=num_heads, heads=launch.heads, rank=rank, rank_pad=triton.next_power_of_2(rank),
        turned=turned, turned_pad=max(16, triton.next_power_of_2(turned)),
        block_size=step.block_size, tile=launch.tile, is_whole=splits.num_own == 1,
        precision="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    if splits.num_own > 1:
        join(out, splits, None, None)
    return out
