"""Triton kernel: new keys and values to their slots."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from parquetry.workers.packed.attention.call import AttentionCall

#: largest number of float8 e4m3
FP8_MAX = tl.constexpr(448.0)


@triton.jit
def to_stored(x, cache_ptr):
    """`x` as the cache keeps it; what float8 cannot hold becomes its largest number."""
    if cache_ptr.dtype.element_ty.is_fp8():
        x = tl.minimum(tl.maximum(x.to(tl.float32), -FP8_MAX), FP8_MAX)
    return x.to(cache_ptr.dtype.element_ty)


@triton.jit
def _store_kernel(
    k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slot_ptr,
    k_stride, k_head_stride, v_stride, v_head_stride, k_block_stride, v_block_stride,
    num_heads: tl.constexpr, heads_pad: tl.constexpr, key_dim: tl.constexpr, key_pad: tl.constexpr,
    value_dim: tl.constexpr, value_pad: tl.constexpr, block_size: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token)
    block, offset = slot // block_size, slot % block_size
    head = tl.arange(0, heads_pad)[:, None]
    key_at, value_at = tl.arange(0, key_pad)[None, :], tl.arange(0, value_pad)[None, :]
    k_mask = (head < num_heads) & (key_at < key_dim)
    v_mask = (head < num_heads) & (value_at < value_dim)
    k = tl.load(k_ptr + token * k_stride + head * k_head_stride + key_at, mask=k_mask)
    v = tl.load(v_ptr + token * v_stride + head * v_head_stride + value_at, mask=v_mask)
    k_at = block * k_block_stride + (head * block_size + offset) * key_dim + key_at
    v_at = block * v_block_stride + (head * block_size + offset) * value_dim + value_at
    tl.store(k_cache_ptr + k_at, to_stored(k, k_cache_ptr), mask=k_mask)
    tl.store(v_cache_ptr + v_at, to_stored(v, v_cache_ptr), mask=v_mask)


def store(call: AttentionCall) -> None:
    """k and v of the call to its slots; their innermost stride is 1."""
    k, v, k_cache, v_cache = call.k, call.v, call.k_cache, call.v_cache
    num_tokens, num_heads, key_dim = k.shape
    value_dim = v.shape[2]
    _store_kernel[(num_tokens,)](
        k, v, k_cache, v_cache, call.slot_mapping,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), k_cache.stride(0), v_cache.stride(0),
        num_heads=num_heads, heads_pad=triton.next_power_of_2(num_heads),
        key_dim=key_dim, key_pad=triton.next_power_of_2(key_dim),
        value_dim=value_dim, value_pad=triton.next_power_of_2(value_dim), block_size=k_cache.shape[2], num_warps=4,
    )  # fmt: skip
