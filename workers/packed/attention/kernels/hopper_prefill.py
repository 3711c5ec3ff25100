"""Prompts on Hopper cards: which layers the kernel of `hopper_kernel` serves, and how it is started."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from parquetry.workers.packed.attention.call import AttentionCall
from parquetry.workers.packed.attention.kernels.hopper_kernel import PIECE, ROWS, hopper_kernel
from parquetry.workers.packed.attention.kernels.paged_prefill import paged_prefill

#: keys a tile holds, by head size: the scores of more would not fit the registers
TILES = {64: 128, 128: 128, 256: 64}
#: tiles of keys, and as many of values, that are on their way or in use
PLACES = 2
#: fewest rows that one copy brings: the pattern in which shared memory is swizzled repeats after as many
MIN_PAGE = 8
DTYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}


def can_attend(dtype: torch.dtype, key_dim: int, value_dim: int, block_size: int) -> bool:
    """Half precision, keys and values of one size of `TILES`, blocks that divide a tile or are multiples of it."""
    if dtype not in DTYPES or key_dim not in TILES or value_dim != key_dim:
        return False
    tile = TILES[key_dim]
    return block_size >= MIN_PAGE and (tile % block_size == 0 or block_size % tile == 0)


def describe(cache: Tensor, page: int) -> TensorDescriptor:
    """A cache (num_blocks, num_kv_heads, block_size, dim) as the copy engine sees it: tokens, `page` at a time."""
    layout = gl.NVMMASharedLayout.get_default_for([page, PIECE.value], DTYPES[cache.dtype])
    dim = cache.shape[3]
    return TensorDescriptor(cache, [cache.numel() // dim, dim], [dim, 1], [page, PIECE.value], layout)


def hopper_prefill(call: AttentionCall) -> Tensor:
    """As `paged_prefill`, which is given the layers that the kernel cannot serve."""
    q, k_cache, v_cache, step, spec, chunks = call.q, call.k_cache, call.v_cache, call.step, call.spec, call.prefill
    num_tokens, num_heads, dim = q.shape
    if q.dtype != k_cache.dtype or not can_attend(q.dtype, dim, v_cache.shape[3], step.block_size):
        return paged_prefill(call)
    num_kv_heads, tile = k_cache.shape[1], TILES[dim]
    page = min(step.block_size, tile)
    out = q.new_empty(num_tokens, num_heads, dim)
    grid = (triton.cdiv(chunks.max_seqlen * (num_heads // num_kv_heads), ROWS.value), num_kv_heads, len(chunks.lanes))
    hopper_kernel[grid](
        q, describe(k_cache, page), describe(v_cache, page), out, out if spec.sinks is None else spec.sinks,
        step.tables, chunks.lanes, chunks.context_lens, chunks.cu_seqlens,
        q.stride(0), q.stride(1), step.tables.stride(0), spec.scale,
        num_heads=num_heads, kv_heads=num_kv_heads, dim=dim, block_size=step.block_size, page=page,
        tile=tile, places=PLACES, sliding_window=spec.sliding_window, softcap=spec.softcap,
        has_sinks=spec.sinks is not None, num_warps=4,
    )  # fmt: skip
    return out
