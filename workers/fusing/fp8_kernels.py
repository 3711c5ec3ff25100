"""A Triton kernel for few rows of 8-bit floats times weights of 8-bit floats, each with a scale per row of its own.

A step of few rows takes as long as reading its weights, and the library's kernel reads them at half of the card's
rate. Weights take the large side of the tensor cores, rows the small one; sums are scaled at the end. Many rows are the
library's.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.fusing.input_parts import choose_parts, finish, locks_of, room_for_parts


class Launch(NamedTuple):
    """How the kernel is cut: rows, outputs and inputs of a tile, warps of a program, loads in flight."""

    rows: int
    width: int
    inputs: int
    num_warps: int
    num_stages: int


#: The first that holds the rows, or the last several times. The best of some on an H100, for the layers of an 8B model.
LAUNCHES = (
    Launch(16, 64, 256, 4, 4),
    Launch(32, 64, 256, 4, 4),
    Launch(64, 64, 128, 4, 6),
)
#: one for each multiprocessor of a large card
NUM_PROGRAMS = 132


# the rows of a step differ from one to the next: none of their numbers may be a kernel of its own to compile
@triton.jit(do_not_specialize=["num_rows"])
def _fp8_kernel(
    x_ptr, x_scale_ptr, weight_ptr, scale_ptr, out_ptr, partial_ptr, locks_ptr, num_rows, num_outputs, num_inputs,
    rows: tl.constexpr, width: tl.constexpr, inputs: tl.constexpr, parts: tl.constexpr,
):  # fmt: skip
    output = tl.program_id(0) * width + tl.arange(0, width)
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    offset, part = tl.arange(0, inputs), tl.program_id(2)
    in_width, in_rows = output < num_outputs, row < num_rows
    weight_at = weight_ptr + output.to(tl.int64)[:, None] * num_inputs + offset[None, :]
    x_at = x_ptr + row.to(tl.int64)[:, None] * num_inputs + offset[None, :]
    steps = tl.cdiv(num_inputs, inputs)
    total = tl.zeros([width, rows], tl.float32)
    for step in range(part * steps // parts, (part + 1) * steps // parts):
        real = (offset < num_inputs - step * inputs)[None, :]
        weight = tl.load(weight_at + step * inputs, mask=in_width[:, None] & real, other=0.0)
        x = tl.load(x_at + step * inputs, mask=in_rows[:, None] & real, other=0.0)
        total = tl.dot(weight, tl.trans(x), total)
    scale = tl.load(scale_ptr + output, mask=in_width, other=0.0)[:, None]
    scale = scale * tl.load(x_scale_ptr + row, mask=in_rows, other=0.0)[None, :]
    at = row.to(tl.int64)[None, :] * num_outputs + output[:, None]
    tile, size = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), num_rows.to(tl.int64) * num_outputs
    kept = in_width[:, None] & in_rows[None, :]
    finish(total, scale, at, kept, out_ptr, partial_ptr, locks_ptr, tile, part, size, parts)


def fp8_product(
    x: Tensor, x_scale: Tensor, weight: Tensor, scale: Tensor, launch: Launch | None = None
) -> Tensor:  # fmt: skip
    """x (num_rows, num_inputs) and weight (num_outputs, num_inputs) float8_e4m3fn, scales float32, one a row of each.

    Returns (num_rows, num_outputs) in bfloat16. All contiguous.
    """
    (num_rows, num_inputs), num_outputs = x.shape, len(weight)
    launch = launch or next((one for one in LAUNCHES if num_rows <= one.rows), LAUNCHES[-1])
    tiles = triton.cdiv(num_outputs, launch.width), triton.cdiv(num_rows, launch.rows)
    parts = choose_parts(tiles[0] * tiles[1], triton.cdiv(num_inputs, launch.inputs), NUM_PROGRAMS)
    out = x.new_empty(num_rows, num_outputs, dtype=torch.bfloat16)
    _fp8_kernel[(*tiles, parts)](
        x, x_scale, weight, scale, out, room_for_parts(x, parts, num_rows, num_outputs),
        locks_of(x.device, tiles[0] * tiles[1]), num_rows, num_outputs, num_inputs,
        rows=launch.rows, width=launch.width, inputs=launch.inputs, parts=parts,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out
