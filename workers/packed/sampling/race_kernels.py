"""Triton kernels for sampling: the cut of top-k, top-p and min-p, and the race among the tokens above it.

Both read each row of logits in tiles and write a few numbers per row, so nothing as large as the logits is made.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096


@triton.jit
def _ordered(x):
    # float32 -> int32 with the same order
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0x735A2D97
    return x ^ (x >> 15)


@triton.jit
def _cut_kernel(
    logit_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, cut_ptr, stride, vocab, tile: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    base = logit_ptr + row.to(tl.int64) * stride
    temperature = tl.load(temperature_ptr + row)
    top_k, top_p, min_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
    offsets = tl.arange(0, tile)
    best = tl.full([tile], float("-inf"), tl.float32)
    for at in range(0, vocab, tile):
        x = tl.load(base + at + offsets, mask=at + offsets < vocab, other=float("-inf")).to(tl.float32)
        best = tl.maximum(best, x / temperature)
    peak = tl.max(best, 0)
    low = tl.full([], -2147483648, tl.int64)
    high = _ordered(peak).to(tl.int64) + 1
    is_cut = (top_k > 0) & (top_k < vocab)
    if is_cut:
        above = high
        for _ in range(33):
            middle = (low + above) >> 1
            count = tl.zeros([tile], tl.int32)
            for at in range(0, vocab, tile):
                real = at + offsets < vocab
                x = tl.load(base + at + offsets, mask=real, other=float("-inf")).to(tl.float32) / temperature
                count += ((_ordered(x).to(tl.int64) >= middle) & real).to(tl.int32)
            enough = tl.sum(count, 0) >= top_k
            low = tl.where(enough, middle, low)
            above = tl.where(enough, above, middle)
    if top_p < 1.0:
        floor = low
        mass = tl.zeros([tile], tl.float32)
        for at in range(0, vocab, tile):
            real = at + offsets < vocab
            x = tl.load(base + at + offsets, mask=real, other=float("-inf")).to(tl.float32) / temperature
            mass += tl.where((_ordered(x).to(tl.int64) >= floor) & real, tl.exp(x - peak), 0.0)
        wanted = tl.sum(mass, 0) * top_p
        above = high
        for _ in range(33):
            middle = (low + above) >> 1
            mass = tl.zeros([tile], tl.float32)
            for at in range(0, vocab, tile):
                real = at + offsets < vocab
                x = tl.load(base + at + offsets, mask=real, other=float("-inf")).to(tl.float32) / temperature
                mass += tl.where((_ordered(x).to(tl.int64) >= middle) & real, tl.exp(x - peak), 0.0)
            enough = tl.sum(mass, 0) >= wanted
            low = tl.where(enough, middle, low)
            above = tl.where(enough, above, middle)
    bits = low.to(tl.int32)
    cut = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    cut = tl.where(low == -2147483648, float("-inf"), cut)
    cut = tl.maximum(cut, peak + tl.log(min_p))
    tl.store(cut_ptr + row, cut)


@triton.jit
def _race_kernel(
    logit_ptr, temperature_ptr, cut_ptr, key_ptr, position_ptr, best_ptr, token_ptr,
    stride, key_stride, vocab, num_tiles, has_cut: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    row, part = tl.program_id(0), tl.program_id(1)
    token = part * tile + tl.arange(0, tile)
    x = tl.load(logit_ptr + row.to(tl.int64) * stride + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0.0:
        x = x / temperature
        if has_cut:
            x = tl.where(x >= tl.load(cut_ptr + row), x, float("-inf"))
        key = key_ptr + row * key_stride
        position = tl.load(position_ptr + row).to(tl.uint32)
        low = _mix(tl.load(key).to(tl.uint32) ^ _mix(position))
        high = _mix(tl.load(key + 1).to(tl.uint32) ^ low)
        bits = _mix(_mix(token.to(tl.uint32) ^ low) ^ high)
        # as parquetry.workers.noise: 23 bits and a half, so that it is never 1.0, which is infinite noise
        uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
        x = x - tl.log(-tl.log(uniform))
    x = tl.where(token < vocab, x, float("-inf"))
    best, index = tl.max(x, 0, return_indices=True)
    tl.store(best_ptr + row * num_tiles + part, best)
    tl.store(token_ptr + row * num_tiles + part, part * tile + index)


def find_cuts(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """(num_rows,) float32: after division by the temperature, tokens below the cut are out."""
    cuts = torch.empty(len(logits), device=logits.device)
    safe = torch.where(temperature > 0, temperature, 1.0)
    _cut_kernel[(len(logits),)](
        logits, safe, top_k.to(torch.int32), top_p.contiguous(), min_p.contiguous(), cuts,
        logits.stride(0), logits.shape[1], tile=TILE, num_warps=8,
    )  # fmt: skip
    return cuts


def race(logits: Tensor, temperature: Tensor, cuts: Tensor | None, keys: Tensor, positions: Tensor) -> Tensor:
    """Tokens (num_rows,) int64: a draw where the temperature is positive, the best token elsewhere.

    logits (num_rows, vocab), keys (num_rows, 2) int64, positions (num_rows,) int64; noise as in `gumbel_noise`.
    """
    num_rows, vocab = logits.shape
    num_tiles = triton.cdiv(vocab, TILE)
    best = torch.empty(num_rows, num_tiles, device=logits.device)
    tokens = torch.empty(num_rows, num_tiles, dtype=torch.int64, device=logits.device)
    temperature = temperature.contiguous()
    _race_kernel[(num_rows, num_tiles)](
        logits, temperature, temperature if cuts is None else cuts, keys, positions, best, tokens,
        logits.stride(0), keys.stride(0), vocab, num_tiles, has_cut=cuts is not None, tile=TILE, num_warps=8,
    )  # fmt: skip
    return tokens.gather(1, best.argmax(1, keepdim=True))[:, 0]
