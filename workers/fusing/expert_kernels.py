"""Triton kernels around the products of experts: placing tokens, gathering them, gates, and the weighted sum.

All grids depend on shapes alone, so that a decode step can be captured, and none uses an atomic: the same batch gives
the same bits every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.fusing.expert_gates import Gate

#: pairs that one program places; up to this many there is one part, and nothing to count first
SMALL_PART, PART = 512, 4096
#: most parts, so that the table of their counts stays small
MAX_PARTS = 16
#: experts of one program where there are several parts, which then reads its part once for all of them
GROUP = 4


@triton.jit(do_not_specialize=["num_pairs"])
def _count_kernel(ids_ptr, counts_ptr, num_pairs, num_experts, size: tl.constexpr, group: tl.constexpr):
    part = tl.program_id(1)
    pair = part * size + tl.arange(0, size)
    ids = tl.minimum(tl.load(ids_ptr + pair, mask=pair < num_pairs, other=-1), num_experts).to(tl.int32)
    for number in range(group):
        expert = tl.program_id(0) * group + number
        count = tl.sum((ids == expert).to(tl.int32))
        tl.store(counts_ptr + part * (num_experts + 1) + expert, count, mask=expert <= num_experts)


# the last "expert" is all those of other ranks
@triton.jit(do_not_specialize=["num_pairs", "num_parts"])
def _place_kernel(
    ids_ptr, counts_ptr, pairs_ptr, slots_ptr, ends_ptr, num_pairs, num_parts, num_experts,
    size: tl.constexpr, group: tl.constexpr, parts: tl.constexpr, experts: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    pair = part * size + tl.arange(0, size)
    is_real = pair < num_pairs
    ids = tl.minimum(tl.load(ids_ptr + pair, mask=is_real, other=0), num_experts).to(tl.int32)
    for number in range(group):
        expert = tl.program_id(0) * group + number
        is_mine = is_real & (ids == expert)
        if parts == 1:
            first = tl.sum((is_real & (ids < expert)).to(tl.int32))
        else:
            in_part, of = tl.arange(0, parts)[:, None], tl.arange(0, experts)[None, :]
            is_before = (of < expert) | ((of == expert) & (in_part < part))
            is_before = is_before & (in_part < num_parts) & (of <= num_experts)
            counts = tl.load(counts_ptr + in_part * (num_experts + 1) + of, mask=is_before, other=0)
            first = tl.sum(tl.sum(counts, 1))
        slot = first + tl.cumsum(is_mine.to(tl.int32), 0) - 1
        tl.store(slots_ptr + pair, slot, mask=is_mine)
        tl.store(pairs_ptr + slot, pair, mask=is_mine)
        is_last = (expert < num_experts) & (part == num_parts - 1)
        tl.store(ends_ptr + expert, first + tl.sum(is_mine.to(tl.int32)), mask=is_last)


@triton.jit
def _gather_kernel(x_ptr, pairs_ptr, out_ptr, width, top_k: tl.constexpr, block: tl.constexpr):
    slot = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    token = (tl.load(pairs_ptr + slot) // top_k).to(tl.int64)
    tl.store(out_ptr + slot * width + column, tl.load(x_ptr + token * width + column, column < width), column < width)


@triton.jit
def activation_of(x, alpha, activation: tl.constexpr):
    """The activations of `expert_gates`, in float32."""
    if activation == "silu":
        x = x * tl.sigmoid(alpha * x)
    elif activation == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif activation == "gelu_tanh":
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif activation == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif activation == "relu2":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        x = x * x
    return x


@triton.jit
def gated(first, second, alpha, limit, shift, activation: tl.constexpr, is_limited: tl.constexpr):
    """A `Gate` over two halves in float32. A NaN stays one: it must not hide behind a limit."""
    if is_limited:
        first = tl.minimum(first, limit, propagate_nan=tl.PropagateNan.ALL)
        second = tl.minimum(second, limit, propagate_nan=tl.PropagateNan.ALL)
        second = tl.maximum(second, -limit, propagate_nan=tl.PropagateNan.ALL)
    return activation_of(first, alpha, activation) * (second + shift)


@triton.jit
def _gate_kernel(
    rows_ptr, bias_ptr, ids_ptr, pairs_ptr, out_ptr, num_outputs, num_experts, alpha, limit, shift,
    block: tl.constexpr, has_bias: tl.constexpr, activation: tl.constexpr,
    is_gated: tl.constexpr, is_interleaved: tl.constexpr, is_limited: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    kept = column < num_outputs
    # where the two halves are: side by side, or taking turns
    step: tl.constexpr = 2 if is_interleaved else 1
    apart = 1 if is_interleaved else num_outputs
    width = num_outputs * (2 if is_gated else 1)
    at = rows_ptr + slot * width + column * step
    first = tl.load(at, mask=kept, other=0.0).to(tl.float32)
    if has_bias:
        expert = tl.minimum(tl.load(ids_ptr + tl.load(pairs_ptr + slot)), num_experts - 1).to(tl.int64)
        bias_at = bias_ptr + expert * width + column * step
        first += tl.load(bias_at, mask=kept, other=0.0).to(tl.float32)
    if is_gated:
        second = tl.load(at + apart, mask=kept, other=0.0).to(tl.float32)
        if has_bias:
            second += tl.load(bias_at + apart, mask=kept, other=0.0).to(tl.float32)
        out = gated(first, second, alpha, limit, shift, activation, is_limited)
    else:
        out = activation_of(first, alpha, activation)
    tl.store(out_ptr + slot * num_outputs + column, out.to(out_ptr.dtype.element_ty), mask=kept)


@triton.jit
def _sum_kernel(
    rows_ptr, slots_ptr, ends_ptr, weights_ptr, bias_ptr, ids_ptr, out_ptr, width, num_experts,
    top_k: tl.constexpr, block: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    end = tl.load(ends_ptr + num_experts - 1)
    out = tl.zeros([block], tl.float32)
    for number in tl.static_range(top_k):
        slot = tl.load(slots_ptr + token * top_k + number).to(tl.int64)
        weight = tl.load(weights_ptr + token * top_k + number).to(tl.float32)
        # rows of other ranks' pairs were never written
        kept = (column < width) & (slot < end)
        row = tl.load(rows_ptr + slot * width + column, mask=kept, other=0.0).to(tl.float32)
        if has_bias:
            expert = tl.load(ids_ptr + token * top_k + number).to(tl.int64)
            row += tl.load(bias_ptr + expert * width + column, mask=kept, other=0.0).to(tl.float32)
        out += tl.where(kept, row * weight, 0.0)
    tl.store(out_ptr + token * width + column, out.to(out_ptr.dtype.element_ty), mask=column < width)


def place(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """`place_experts` on a card."""
    num_pairs = ids.numel()
    size = (
        SMALL_PART if num_pairs <= SMALL_PART else max(PART, triton.next_power_of_2(triton.cdiv(num_pairs, MAX_PARTS)))
    )
    num_parts = triton.cdiv(num_pairs, size)
    pairs, slots = (ids.new_empty(num_pairs, dtype=torch.int32) for _ in range(2))
    ends = ids.new_empty(num_experts, dtype=torch.int32)
    group = 1 if num_parts == 1 else GROUP
    cut = {"size": size, "group": group, "num_warps": 4 if size == SMALL_PART else 8}
    grid, counts = (triton.cdiv(num_experts + 1, group), num_parts), ends
    if num_parts > 1:
        counts = ids.new_empty(num_parts, num_experts + 1, dtype=torch.int32)
        _count_kernel[grid](ids, counts, num_pairs, num_experts, **cut)
    _place_kernel[grid](
        ids, counts, pairs, slots, ends, num_pairs, num_parts, num_experts,
        parts=1 if num_parts == 1 else MAX_PARTS, experts=triton.next_power_of_2(num_experts + 1), **cut,
    )  # fmt: skip
    return pairs, slots, ends


def gather(x: Tensor, pairs: Tensor, top_k: int) -> Tensor:
    """x (num_tokens, width): the row of each slot's token, (num_slots, width)."""
    out = x.new_empty(len(pairs), x.shape[1])
    block = block_of(x.shape[1])
    _gather_kernel[len(pairs), triton.cdiv(x.shape[1], block)](x, pairs, out, x.shape[1], top_k=top_k, block=block)
    return out


def activate(rows: Tensor, bias: Tensor | None, ids: Tensor, pairs: Tensor, gate: Gate) -> Tensor:
    """rows (num_slots, width), plus the bias (num_experts, width) of their experts, through the gate."""
    num_outputs = gate.num_outputs(rows.shape[1])
    out = rows.new_empty(len(rows), num_outputs)
    block = block_of(num_outputs)
    _gate_kernel[len(rows), triton.cdiv(num_outputs, block)](
        rows, rows if bias is None else bias, ids, pairs, out, num_outputs, 1 if bias is None else len(bias),
        gate.alpha, gate.limit, gate.shift,
        block=block, has_bias=bias is not None, activation=gate.activation,
        is_gated=gate.is_gated, is_interleaved=gate.is_interleaved, is_limited=gate.limit > 0,
    )  # fmt: skip
    return out


def weigh(rows: Tensor, slots: Tensor, ends: Tensor, weights: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    """`sum_experts` on a card."""
    (num_tokens, top_k), width = ids.shape, rows.shape[1]
    out = rows.new_empty(num_tokens, width)
    block = block_of(width)
    _sum_kernel[num_tokens, triton.cdiv(width, block)](
        rows, slots, ends, weights.contiguous(), rows if bias is None else bias, ids, out, width, len(ends),
        top_k=top_k, block=block, has_bias=bias is not None,
    )  # fmt: skip
    return out


def block_of(width: int) -> int:
    """Columns of one program of four warps, whose threads each load 16 bytes of half precision."""
    return min(1024, triton.next_power_of_2(width))
