"""Triton: one tile of paged keys and values taken into the running softmax of some queries."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def soft_cap(scores, cap: tl.constexpr):
    # cap * tanh(scores / cap)
    return cap * (2.0 * tl.sigmoid(2.0 * scores / cap) - 1.0)


@triton.jit
def absorb(
    acc, total, top, q, k_ptr, v_ptr, table, at, length, position, kv_head, scale,
    k_block_stride, k_head_stride, v_block_stride, v_head_stride,
    key_dim: tl.constexpr, key_pad: tl.constexpr, value_dim: tl.constexpr, value_pad: tl.constexpr,
    block_size: tl.constexpr, tile: tl.constexpr, is_masked: tl.constexpr,
    sliding_window: tl.constexpr, softcap: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """One tile of keys, starting at `at`. Scores are kept in powers of two, whose exponential is one instruction."""
    key = at + tl.arange(0, tile)
    key_at, value_at = tl.arange(0, key_pad), tl.arange(0, value_pad)
    if block_size >= tile:
        block = tl.load(table + at // block_size).to(tl.int64)
        slot = at % block_size + tl.arange(0, tile)
    else:
        block = tl.load(table + key // block_size, mask=key < length, other=0).to(tl.int64)
        slot = key % block_size
    k_row = block * k_block_stride + kv_head * k_head_stride + slot * key_dim
    v_row = block * v_block_stride + kv_head * v_head_stride + slot * value_dim
    if is_masked:
        k_mask = (key < length)[None, :] & (key_at[:, None] < key_dim)
        v_mask = (key < length)[:, None] & (value_at[None, :] < value_dim)
        k = tl.load(k_ptr + k_row[None, :] + key_at[:, None], mask=k_mask, other=0.0)
        v = tl.load(v_ptr + v_row[:, None] + value_at[None, :], mask=v_mask, other=0.0)
    elif key_pad != key_dim or value_pad != value_dim:
        k = tl.load(k_ptr + k_row[None, :] + key_at[:, None], mask=key_at[:, None] < key_dim, other=0.0)
        v = tl.load(v_ptr + v_row[:, None] + value_at[None, :], mask=value_at[None, :] < value_dim, other=0.0)
    else:
        k = tl.load(k_ptr + k_row[None, :] + key_at[:, None])
        v = tl.load(v_ptr + v_row[:, None] + value_at[None, :])
    k, v = k.to(q.dtype), v.to(q.dtype)
    scores = tl.dot(q, k, input_precision=precision) * scale
    if softcap > 0.0:
        scores = soft_cap(scores, softcap)
    scores *= LOG2_E
    if is_masked:
        seen = key[None, :] <= position[:, None]
        if sliding_window > 0:
            seen = seen & (position[:, None] - key[None, :] < sliding_window)
        scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    # Behind a sliding window a row may have seen no key yet; its maximum is -inf and must not turn into NaN.
    safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores - safe_top[:, None])
    fade = tl.exp2(top - safe_top)
    total = total * fade + tl.sum(weights, 1)
    acc = acc * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=precision)
    return acc, total, new_top
