"""Triton kernels: half-precision rows times an int8 weight that has one scale per output.

A step of few rows takes as long as reading its weights, and here they are one byte each: up to 1.9 times the rate of
bfloat16 at 1 to 16 rows. Tiles are converted on their way to the tensor cores. Where tiles of outputs alone do not
fill the card, the inputs are shared out as well, and a second kernel adds the shares up in a fixed order. Many rows
are faster through a weight that is converted as a whole. The grid depends on shapes alone, so it can be replayed.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

#: two programs for each multiprocessor of a large card
TARGET_PROGRAMS = 264
MAX_SPLITS = 8
#: fewest inputs of a share: with less, joining costs what sharing gains
MIN_SHARE = 512
#: More rows than this go through a converted weight. At 3 TB/s converting costs 1 ps a weight (3 bytes, and the product
#: hides reading it again); a row costs 2.9 fs a weight at cuBLAS's 700 TFLOP/s and 6.7 fs at the 300 that this kernel
#: is taken to reach: they meet at 262 rows.
MAX_ROWS = 256


class Launch(NamedTuple):
    """How the kernel is cut: rows, outputs and inputs of a tile, warps per program, loads in flight."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


#: the first that holds all rows is taken, and the last for more
LAUNCHES = (
    Launch(16, 64, 128, 4, 4),
    Launch(32, 128, 64, 4, 4),
    Launch(64, 128, 64, 4, 4),
    Launch(128, 128, 64, 8, 4),
)


# the rows of a step differ from one to the next: none of their numbers may be a kernel of its own to compile
@triton.jit(do_not_specialize=["num_rows"])
def _int8_kernel(
    x_ptr, weight_ptr, scale_ptr, bias_ptr, out_ptr, part_ptr, num_rows, num_outputs, num_inputs,
    rows: tl.constexpr, outputs: tl.constexpr, inputs: tl.constexpr,
    has_bias: tl.constexpr, is_whole: tl.constexpr,
):  # fmt: skip
    # rows innermost: programs that read the same weights run at the same time
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    output = tl.program_id(1) * outputs + tl.arange(0, outputs)
    split = tl.program_id(2)
    offsets = tl.arange(0, inputs)
    in_rows, in_outputs = row < num_rows, output < num_outputs
    share = tl.cdiv(tl.cdiv(num_inputs, inputs), tl.num_programs(2)) * inputs
    x_at = row.to(tl.int64)[:, None] * num_inputs + offsets[None, :]
    weight_at = output.to(tl.int64)[None, :] * num_inputs + offsets[:, None]

    acc = tl.zeros([rows, outputs], tl.float32)
    for at in range(split * share, tl.minimum(split * share + share, num_inputs), inputs):
        real = offsets < num_inputs - at
        x = tl.load(x_ptr + x_at + at, mask=in_rows[:, None] & real[None, :], other=0.0)
        weight = tl.load(weight_ptr + weight_at + at, mask=in_outputs[None, :] & real[:, None], other=0)
        acc = tl.dot(x, weight.to(x.dtype), acc)

    kept = in_rows[:, None] & in_outputs[None, :]
    out_at = row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    if is_whole:
        out = acc * tl.load(scale_ptr + output, mask=in_outputs, other=0.0)[None, :]
        if has_bias:
            out += tl.load(bias_ptr + output, mask=in_outputs, other=0.0).to(tl.float32)[None, :]
        tl.store(out_ptr + out_at, out.to(out_ptr.dtype.element_ty), mask=kept)
    else:
        size = num_rows.to(tl.int64) * num_outputs
        tl.store(part_ptr + split * size + out_at, acc, mask=kept)


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _join_kernel(
    part_ptr, scale_ptr, bias_ptr, out_ptr, num_rows, num_outputs, num_splits,
    outputs: tl.constexpr, has_bias: tl.constexpr,
):  # fmt: skip
    row, output = tl.program_id(0).to(tl.int64), tl.program_id(1) * outputs + tl.arange(0, outputs)
    real = output < num_outputs
    at = row * num_outputs + output
    acc = tl.zeros([outputs], tl.float32)
    for split in range(num_splits):
        acc += tl.load(part_ptr + split * num_rows.to(tl.int64) * num_outputs + at, mask=real, other=0.0)
    out = acc * tl.load(scale_ptr + output, mask=real, other=0.0)
    if has_bias:
        out += tl.load(bias_ptr + output, mask=real, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=real)


@triton.jit
def _dequantize_kernel(weight_ptr, scale_ptr, out_ptr, num_inputs, inputs: tl.constexpr):
    output = tl.program_id(0)
    offsets = tl.program_id(1) * inputs + tl.arange(0, inputs)
    at = output.to(tl.int64) * num_inputs + offsets
    weight = tl.load(weight_ptr + at, mask=offsets < num_inputs, other=0)
    out = weight.to(tl.float32) * tl.load(scale_ptr + output)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=offsets < num_inputs)


def choose_launch(num_rows: int) -> Launch:
    """The smallest tiles that hold all rows."""
    return next((launch for launch in LAUNCHES if num_rows <= launch.rows), LAUNCHES[-1])


def choose_num_splits(num_tiles: int, num_inputs: int) -> int:
    """Shares of the inputs per tile of the output, so that few tiles still fill the card."""
    return max(1, min(MAX_SPLITS, TARGET_PROGRAMS // num_tiles, num_inputs // MIN_SHARE))


def int8_matmul(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (num_rows, num_inputs), weight (num_outputs, num_inputs) int8, scale and bias (num_outputs,), all contiguous.

    Returns (num_rows, num_outputs).
    """
    # float32 has no tensor cores to feed
    if len(x) > MAX_ROWS or x.dtype == torch.float32:
        return F.linear(x, dequantize(weight, scale, x.dtype), bias)
    return multiply(x, weight, scale, bias)


def dequantize(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """weight (num_outputs, num_inputs) times its scales.

    Scaling the product instead would be a pass over a large output, and float16 would overflow before it.
    """
    num_outputs, num_inputs = weight.shape
    out = torch.empty_like(weight, dtype=dtype)
    grid = (num_outputs, triton.cdiv(num_inputs, 2048))
    _dequantize_kernel[grid](weight, scale, out, num_inputs, inputs=2048, num_warps=4)
    return out


def multiply(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`int8_matmul` of few rows in half precision."""
    (num_rows, num_inputs), num_outputs = x.shape, len(weight)
    launch = choose_launch(num_rows)
    grid = (triton.cdiv(num_rows, launch.rows), triton.cdiv(num_outputs, launch.outputs))
    splits = choose_num_splits(grid[0] * grid[1], num_inputs)
    out = x.new_empty(num_rows, num_outputs)
    partial = out if splits == 1 else x.new_empty(splits, num_rows, num_outputs, dtype=torch.float32)
    _int8_kernel[(*grid, splits)](
        x, weight, scale, scale if bias is None else bias, out, partial, num_rows, num_outputs, num_inputs,
        rows=launch.rows, outputs=launch.outputs, inputs=launch.inputs,
        has_bias=bias is not None, is_whole=splits == 1,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    if splits > 1:
        _join_kernel[(num_rows, triton.cdiv(num_outputs, 1024))](
            partial, scale, scale if bias is None else bias, out, num_rows, num_outputs, splits,
            outputs=1024, has_bias=bias is not None, num_warps=4,
        )  # fmt: skip
    return out
