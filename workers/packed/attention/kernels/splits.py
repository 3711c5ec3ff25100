"""Triton kernel: what programs found over splits of a row's keys, joined into one softmax."""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.packed.attention.call import SharedKeys


@dataclass
class Splits:
    """Results of splits: those of each row's own keys, and behind them those of the keys that rows share."""

    #: (num_decodes, num_heads, num_all, value_pad) float32: values weighted by exp(score - top)
    values: Tensor
    #: (num_decodes, num_heads, num_all, 2) float32: top, and the sum of the weights
    stats: Tensor
    num_own: int
    num_all: int

    @classmethod
    def of(cls, out: Tensor, num_own: int, num_shared: int) -> Splits:
        """For an output (num_decodes, num_heads, value_dim); a single split writes there itself, and has no other."""
        num_all, value_pad = num_own + num_shared, triton.next_power_of_2(out.shape[2])
        if num_all == 1:
            return cls(out, out, num_own, num_all)
        shape = (*out.shape[:2], num_all)
        values = out.new_empty(*shape, value_pad, dtype=torch.float32)
        return cls(values, out.new_empty(*shape, 2, dtype=torch.float32), num_own, num_all)


@triton.jit(do_not_specialize=["num_own", "num_splits"])
def _join_kernel(
    partial_ptr, stat_ptr, sink_ptr, out_ptr, shared_ptr, num_own, num_splits,
    num_heads: tl.constexpr, value_dim: tl.constexpr, value_pad: tl.constexpr,
    splits_pad: tl.constexpr, has_sinks: tl.constexpr, has_shared: tl.constexpr,
):  # fmt: skip
    head, row = tl.program_id(0), tl.program_id(1)
    base = (row.to(tl.int64) * num_heads + head) * num_splits
    split, value_at = tl.arange(0, splits_pad), tl.arange(0, value_pad)
    real = split < num_own
    if has_shared:
        # nobody wrote the shared splits of a row that shares nothing
        real = real | ((split < num_splits) & (tl.load(shared_ptr + row) > 0))
    tops = tl.load(stat_ptr + (base + split) * 2, mask=real, other=float("-inf"))
    totals = tl.load(stat_ptr + (base + split) * 2 + 1, mask=real, other=0.0)
    top = tl.max(tops, 0)
    if has_sinks:
        sink = tl.load(sink_ptr + head).to(tl.float32)
        top = tl.maximum(top, sink)
    fades = tl.exp(tops - top)
    total = tl.sum(totals * fades, 0)
    if has_sinks:
        total += tl.exp(sink - top)
    values = tl.load(
        partial_ptr + (base + split)[:, None] * value_pad + value_at[None, :], mask=real[:, None], other=0.0
    )
    out = tl.sum(values * fades[:, None], 0) / total
    at = (row.to(tl.int64) * num_heads + head) * value_dim + value_at
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=value_at < value_dim)


def join(out: Tensor, splits: Splits, sinks: Tensor | None, shared: SharedKeys | None) -> None:
    """Write the joined splits to `out` (num_decodes, num_heads, value_dim)."""
    num_rows, num_heads, value_dim = out.shape
    _join_kernel[(num_heads, num_rows)](
        splits.values, splits.stats, out if sinks is None else sinks, out, out if shared is None else shared.lens,
        splits.num_own, splits.num_all,
        num_heads=num_heads, value_dim=value_dim, value_pad=triton.next_power_of_2(value_dim),
        splits_pad=triton.next_power_of_2(splits.num_all),
        has_sinks=sinks is not None, has_shared=shared is not None, num_warps=4,
    )  # fmt: skip
