"""A Triton kernel for products of few rows an expert: it takes about as long as reading the experts' weights once.

A program holds one tile of one expert's outputs, for all rows of that expert: how many there are is known on the card
alone, and an expert without rows costs nothing. Tokens are gathered as they are loaded, and the gate follows in
registers. Rows do not depend on one another, nor on where they lie: each is the sum over its inputs in one fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.fusing.expert_gates import Gate
from parquetry.workers.fusing.expert_kernels import activation_of, gated


class Launch(NamedTuple):
    """How the kernel is cut: rows, width and inputs of a tile, warps per program, loads in flight."""

    rows: int
    width: int
    inputs: int
    num_warps: int
    num_stages: int
    #: compute weights times rows: their width then feeds the large side of the tensor cores
    is_turned: bool = False


#: the first whose rows hold an expert's on average, with room for busier ones, is taken, and the last for more
LAUNCHES = (
    Launch(16, 128, 64, 4, 4),
    Launch(32, 128, 64, 4, 4),
    Launch(64, 128, 64, 4, 4),
    Launch(128, 128, 64, 8, 4),
)


@triton.jit
def _product_kernel(
    x_ptr, weight_ptr, bias_ptr, pairs_ptr, ends_ptr, out_ptr, num_inputs, num_outputs,
    expert_stride, input_stride, width_stride, alpha, limit, shift,
    rows: tl.constexpr, width: tl.constexpr, inputs: tl.constexpr, top_k: tl.constexpr, has_bias: tl.constexpr,
    activation: tl.constexpr, is_gated: tl.constexpr, is_interleaved: tl.constexpr, is_limited: tl.constexpr,
    is_turned: tl.constexpr,
):  # fmt: skip
    # experts outermost: programs that read the same weights or rows run at the same time
    expert = tl.program_id(2)
    first = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends_ptr + expert)
    # halves of a gate are computed in turns, wherever they lie
    turn = tl.program_id(0) * width + tl.arange(0, width)
    num_columns = num_outputs * (2 if is_gated else 1)
    in_width = turn < num_columns
    column = turn // 2 + (turn % 2) * num_outputs if is_gated and not is_interleaved else turn
    offsets = tl.arange(0, inputs)
    expert_at = expert.to(tl.int64)
    weight_at = (
        weight_ptr + expert_at * expert_stride + offsets[:, None] * input_stride + column[None, :] * width_stride
    )
    for start in range(first + tl.program_id(1) * rows, end, rows * tl.num_programs(1)):
        slot = start + tl.arange(0, rows)
        in_rows = slot < end
        row = tl.load(pairs_ptr + slot, mask=in_rows, other=0) // top_k if top_k else slot
        x_at = x_ptr + row.to(tl.int64)[:, None] * num_inputs + offsets[None, :]
        acc = tl.zeros([width, rows] if is_turned else [rows, width], tl.float32)
        for at in range(0, num_inputs, inputs):
            real = offsets < num_inputs - at
            x = tl.load(x_at + at, mask=in_rows[:, None] & real[None, :], other=0.0)
            weight = tl.load(weight_at + at * input_stride, mask=real[:, None] & in_width[None, :], other=0.0)
            acc = tl.dot(tl.trans(weight), tl.trans(x), acc) if is_turned else tl.dot(x, weight, acc)
        if is_turned:
            acc = tl.trans(acc)
        if has_bias:
            bias = tl.load(bias_ptr + expert_at * num_columns + column, mask=in_width, other=0.0)
            acc += bias.to(tl.float32)[None, :]
        if is_gated:
            one, other = tl.split(tl.reshape(acc, [rows, width // 2, 2]))
            out = gated(one, other, alpha, limit, shift, activation, is_limited)
            output = tl.program_id(0) * (width // 2) + tl.arange(0, width // 2)
        else:
            out = activation_of(acc, alpha, activation)
            output = turn
        kept = in_rows[:, None] & (output < num_outputs)[None, :]
        out_at = out_ptr + slot.to(tl.int64)[:, None] * num_outputs + output[None, :]
        tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=kept)


def choose_launch(num_pairs: int, num_experts: int) -> Launch:
    """Tiles for so many pairs: experts that get more than a tile's rows read their weights again, from the L2."""
    busy = 2 * num_pairs / num_experts
    return next((launch for launch in LAUNCHES if busy <= launch.rows), LAUNCHES[-1])


def multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, pairs: Tensor, ends: Tensor, top_k: int, gate: Gate,
    launch: Launch | None = None,
) -> Tensor:  # fmt: skip
    """As `multiply_experts`. weight (num_experts, inputs, width) of any strides; top_k 0 gathers nothing."""
    (num_experts, num_inputs, num_columns), num_pairs = weight.shape, len(pairs)
    launch = launch or choose_launch(num_pairs, num_experts)
    num_outputs = gate.num_outputs(num_columns)
    out = x.new_empty(num_pairs, num_outputs)
    # where there are many rows, programs share those of one expert
    num_splits = max(1, num_pairs // (num_experts * launch.rows))
    _product_kernel[triton.cdiv(num_columns, launch.width), num_splits, num_experts](
        x, weight, weight if bias is None else bias, pairs, ends, out, num_inputs, num_outputs,
        *weight.stride(), gate.alpha, gate.limit, gate.shift,
        rows=launch.rows, width=launch.width, inputs=launch.inputs, top_k=top_k, has_bias=bias is not None,
        activation=gate.activation, is_gated=gate.is_gated, is_interleaved=gate.is_interleaved,
        is_limited=gate.limit > 0, is_turned=launch.is_turned, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out
