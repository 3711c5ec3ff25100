"""Triton kernels for weights of four bits: a product for few rows that reads the codes once, and one that unpacks them.

Codes become numbers by bits alone: a code put into the last bits of 128 in bfloat16 (1024 in float16) is that number
plus the code, and no instruction converts anything. Two numbers of one word are subtracted and scaled at a time. They
are what `dequantize` gives, bit for bit. Weights take the large side of the tensor cores, rows the small one; rows do
not depend on one another.

packed int32 (num_outputs, num_inputs / 8): word t of the 8 words of a block of 64 inputs holds in bits 4i to 4i + 3,
i from 0 to 3, the code of input 16i + 2t of that block, and 16 bits further up that of the input behind it. scales and
zeros (num_groups, num_outputs).
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

#: inputs that share 8 words
BLOCK = 64


class Launch(NamedTuple):
    """How the product is cut: rows, outputs and inputs of a tile, warps of a program, loads in flight, and programs."""

    rows: int
    width: int
    inputs: int
    num_warps: int
    num_stages: int
    num_programs: int


#: fewest outputs that are many
MANY_OUTPUTS = 16384
#: For few outputs and for many: the first that holds the rows, or the last several times. The best of some on an H100,
#: for the layers of an 8B model: 0.44 of bfloat16's time at one row, 0.6 at 64, 1.5 at 256.
FEW = (
    Launch(16, 64, 128, 4, 4, 528),
    Launch(64, 64, 128, 4, 4, 264),
    Launch(128, 128, 128, 8, 3, 132),
)
MANY = (
    Launch(16, 64, 128, 4, 4, 528),
    Launch(64, 128, 128, 4, 4, 264),
    Launch(256, 128, 64, 8, 4, 132),
)


def choose_launch(num_rows: int, num_outputs: int) -> Launch:
    """The smallest tiles that hold all rows."""
    launches = MANY if num_outputs >= MANY_OUTPUTS else FEW
    return next((launch for launch in launches if num_rows <= launch.rows), launches[-1])


@triton.jit
def _numbers(words, zero, scale, is_half: tl.constexpr, is_scaled: tl.constexpr):
    """The lowest code of both halves of each word, less `zero`, and times `scale` where it `is_scaled`.

    Zero and scale are two equal numbers in a word, zero plus the base.
    """
    mask = tl.full([1, 1, 1, 1], 0x000F000F, tl.int32)
    base = tl.full([1, 1, 1, 1], 0x64006400 if is_half else 0x43004300, tl.int32)
    kind: tl.constexpr = "f16x2" if is_half else "bf16x2"
    picked: tl.constexpr = "{ .reg .b32 t; lop3.b32 t, $1, $2, $3, 0xEA; sub.rn." + kind
    if is_scaled:
        return tl.inline_asm_elementwise(
            picked + " t, t, $4; mul.rn." + kind + " $0, t, $5; }",
            "=r,r,r,r,r,r", [words, mask, base, zero, scale], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return tl.inline_asm_elementwise(
        picked + " $0, t, $4; }",
        "=r,r,r,r,r", [words, mask, base, zero], dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _twice(bits):
    """16 bits in both halves of a word."""
    return (bits.to(tl.int32) & 0xFFFF) * 0x10001


@triton.jit
def _spread(values, blocks: tl.constexpr):
    """One value a group (width, groups) as one for each 16 inputs, (width, blocks, 4, 1)."""
    width: tl.constexpr = values.shape[0]
    groups: tl.constexpr = values.shape[1]
    wide = tl.broadcast_to(values[:, :, None], [width, groups, blocks * 4 // groups])
    return tl.reshape(wide, [width, blocks, 4])[:, :, :, None]


@triton.jit
def weights_of(
    words, zero, scale, is_half: tl.constexpr, is_interpreted: tl.constexpr, is_scaled: tl.constexpr
):  # fmt: skip
    """Words (width, inputs / 8) as weights (width, inputs), or before scaling; zero and scale (width, groups)."""
    width: tl.constexpr = words.shape[0]
    blocks: tl.constexpr = words.shape[1] // 8
    kind: tl.constexpr = tl.float16 if is_half else tl.bfloat16
    base: tl.constexpr = 0x6400 if is_half else 0x4300
    shift = (tl.arange(0, 4) * 4)[None, None, :, None]
    pairs = tl.reshape(words, [width, blocks, 8])[:, :, None, :] >> shift
    if is_interpreted:
        pairs = (pairs & 0x000F000F) | (base * 0x10001)
    else:
        zeros = _spread(_twice(zero.to(tl.int32) | base), blocks)
        pairs = _numbers(pairs, zeros, _spread(_twice(scale.to(tl.int16, bitcast=True)), blocks), is_half, is_scaled)
    first = pairs.to(tl.int16).to(kind, bitcast=True)
    second = (pairs >> 16).to(tl.int16).to(kind, bitcast=True)
    numbers = tl.join(first, second)
    if is_interpreted:
        offset = _spread(zero.to(tl.float32), blocks)[:, :, :, :, None] + (1024.0 if is_half else 128.0)
        numbers = numbers.to(tl.float32) - offset
        if is_scaled:
            numbers = numbers * _spread(scale.to(tl.float32), blocks)[:, :, :, :, None]
        numbers = numbers.to(kind)
    return tl.reshape(numbers, [width, blocks * 64])


@triton.jit
def _zeros_or_eights(zeros_ptr, at, mask, shape: tl.constexpr, kind: tl.constexpr, has_zeros: tl.constexpr):
    if has_zeros:
        return tl.load(zeros_ptr + at, mask=mask, other=0.0)
    return tl.full(shape, 8.0, kind)


# the rows of a step differ from one to the next: none of their numbers may be a kernel of its own to compile
@triton.jit(do_not_specialize=["num_rows"])
def _product_kernel(
    x_ptr, packed_ptr, scales_ptr, zeros_ptr, out_ptr, partial_ptr, locks_ptr,
    num_rows, num_outputs, num_inputs, num_words,
    rows: tl.constexpr, width: tl.constexpr, inputs: tl.constexpr, group: tl.constexpr, has_zeros: tl.constexpr,
    is_half: tl.constexpr, parts: tl.constexpr, is_interpreted: tl.constexpr,
):  # fmt: skip
    output = tl.program_id(0) * width + tl.arange(0, width)
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    in_width, in_rows = output < num_outputs, row < num_rows
    word, offset, part = tl.arange(0, inputs // 8), tl.arange(0, inputs), tl.program_id(2)
    words_at = packed_ptr + output.to(tl.int64)[:, None] * num_words + word[None, :]
    x_at = x_ptr + row.to(tl.int64)[:, None] * num_inputs + offset[None, :]
    kind: tl.constexpr = tl.float16 if is_half else tl.bfloat16
    groups: tl.constexpr = inputs // group if group < inputs else 1
    # few rows have fewer sums to scale than weights
    is_late: tl.constexpr = groups == 1 and rows <= 64
    steps = tl.cdiv(num_words * 8, inputs)
    total = tl.zeros([width, rows], tl.float32)
    for step in range(part * steps // parts, (part + 1) * steps // parts):
        in_words = (word < num_words - step * (inputs // 8))[None, :]
        words = tl.load(words_at + step * (inputs // 8), mask=in_width[:, None] & in_words, other=0)
        real = in_rows[:, None] & (offset < num_inputs - step * inputs)[None, :]
        x = tl.load(x_at + step * inputs, mask=real, other=0.0)
        column = step * inputs + tl.arange(0, groups) * group
        at = (column // group)[None, :] * num_outputs + output[:, None]
        kept = in_width[:, None] & (column < num_words * 8)[None, :]
        scale = tl.load(scales_ptr + at, mask=kept, other=0.0)
        zero = _zeros_or_eights(zeros_ptr, at, kept, [width, groups], kind, has_zeros)
        weights = weights_of(words, zero, scale, is_half, is_interpreted, not is_late)
        if is_late:
            total += tl.dot(weights, tl.trans(x)) * scale.to(tl.float32)
        else:
            total = tl.dot(weights, tl.trans(x), total)
    at = row.to(tl.int64)[None, :] * num_outputs + output[:, None]
    tile, size = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), num_rows.to(tl.int64) * num_outputs
    finish(
        total, 1.0, at, in_width[:, None] & in_rows[None, :], out_ptr, partial_ptr, locks_ptr, tile, part, size, parts
    )  # fmt: skip


@triton.jit
def _unpack_kernel(
    packed_ptr, scales_ptr, zeros_ptr, out_ptr, num_outputs, num_inputs, num_words,
    width: tl.constexpr, group: tl.constexpr, has_zeros: tl.constexpr, is_half: tl.constexpr,
    is_interpreted: tl.constexpr,
):  # fmt: skip
    output, start = tl.program_id(1) * width + tl.arange(0, width), tl.program_id(0) * 128
    in_width, word = output < num_outputs, start // 8 + tl.arange(0, 16)
    words_at = packed_ptr + output.to(tl.int64)[:, None] * num_words + word[None, :]
    words = tl.load(words_at, mask=in_width[:, None] & (word < num_words)[None, :], other=0)
    kind: tl.constexpr = tl.float16 if is_half else tl.bfloat16
    groups: tl.constexpr = 128 // group if group < 128 else 1
    at = ((start + tl.arange(0, groups) * group) // group)[None, :] * num_outputs + output[:, None]
    kept = in_width[:, None] & (start + tl.arange(0, groups) * group < num_words * 8)[None, :]
    scale = tl.load(scales_ptr + at, mask=kept, other=0.0)
    zero = _zeros_or_eights(zeros_ptr, at, kept, [width, groups], kind, has_zeros)
    column = start + tl.arange(0, 128)
    out_at = out_ptr + output.to(tl.int64)[:, None] * num_inputs + column[None, :]
    weights = weights_of(words, zero, scale, is_half, is_interpreted, True)
    tl.store(out_at, weights, mask=in_width[:, None] & (column < num_inputs)[None, :])


def fits(group_size: int, num_inputs: int) -> bool:
    """Whether groups lie evenly in tiles of 64 and of 128 inputs, and these in groups."""
    return group_size >= num_inputs or group_size % 128 == 0 or group_size in (16, 32, 64)


def fused_product(
    x: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, launch: Launch | None = None
) -> Tensor:
    """x (num_rows, inputs) times the weights' transpose: (num_rows, num_outputs) in x's dtype, bfloat16 or float16."""
    x, (num_rows, num_inputs), (num_outputs, num_words) = x.contiguous(), x.shape, packed.shape
    launch = launch or choose_launch(num_rows, num_outputs)
    tiles = triton.cdiv(num_outputs, launch.width), triton.cdiv(num_rows, launch.rows)
    parts = choose_parts(tiles[0] * tiles[1], triton.cdiv(num_inputs, launch.inputs), launch.num_programs)
    out = x.new_empty(num_rows, num_outputs)
    _product_kernel[(*tiles, parts)](
        x, packed, scales, scales if zeros is None else zeros, out, room_for_parts(x, parts, num_rows, num_outputs),
        locks_of(x.device, tiles[0] * tiles[1]), num_rows, num_outputs, num_inputs, num_words,
        rows=launch.rows, width=launch.width, inputs=launch.inputs, group=_group(group_size, num_words),
        has_zeros=zeros is not None, is_half=x.dtype == torch.float16, parts=parts, is_interpreted=not x.is_cuda,
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out


def _group(group_size: int, num_words: int) -> int:
    """One group for all inputs is one number, whatever the size of the layer: each is a kernel of its own."""
    return 1 << 30 if group_size >= 8 * num_words else group_size


def dequantize(packed: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, num_inputs: int) -> Tensor:
    """The weights themselves, (num_outputs, num_inputs), in the scales' dtype, bfloat16 or float16."""
    num_outputs, num_words = packed.shape
    out = scales.new_empty(num_outputs, num_inputs)
    _unpack_kernel[triton.cdiv(num_inputs, 128), triton.cdiv(num_outputs, 32)](
        packed, scales, scales if zeros is None else zeros, out, num_outputs, num_inputs, num_words,
        width=32, group=_group(group_size, num_words), has_zeros=zeros is not None,
        is_half=scales.dtype == torch.float16, is_interpreted=not packed.is_cuda, num_warps=4,
    )  # fmt: skip
    return out
