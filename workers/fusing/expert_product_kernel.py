"""A Triton kernel for products of experts: where rows are few, it takes about as long as reading the weights once.

A program holds one tile of one expert's outputs, for all rows of that expert or some tiles of them: how many there are
is known on the card alone, and an expert without rows costs nothing. Tokens are gathered as they are loaded, and the
gate follows in registers. Rows do not depend on one another, nor on where they lie: each is the sum over its inputs in
one fixed order.
"""

# Triton reads the annotations of a kernel's arguments itself
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from parquetry.workers.fusing.expert_gates import Gate


class Launch(NamedTuple):
    """How the kernel is cut: rows, width and inputs of a tile, warps per program, loads in flight."""

    rows: int
    width: int
    inputs: int
    num_warps: int
    num_stages: int
    #: compute weights times rows: their width then feeds the large side of the tensor cores
    is_turned: bool = False


#: The first with twice an expert's rows on average is taken, and the last for more. The best of 140 on an H100, for
#: 128 experts of 768 over 2,048: within 5% of reading the weights once up to 256 rows of 8 experts, and 11% at 512.
LAUNCHES = (
    Launch(16, 64, 128, 4, 4, is_turned=True),
    Launch(32, 64, 128, 4, 4, is_turned=True),
    Launch(64, 64, 128, 4, 3, is_turned=True),
    Launch(128, 128, 64, 4, 3),
    Launch(128, 256, 64, 8, 4),
)


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
        row = start + tl.arange(0, rows)
        in_rows = row < end
        from_row = tl.load(pairs_ptr + row, mask=in_rows, other=0) // top_k if top_k else row
        x_at = x_ptr + from_row.to(tl.int64)[:, None] * num_inputs + offsets[None, :]
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
        out_at = out_ptr + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
        tl.store(out_at, out.to(out_ptr.dtype.element_ty), mask=kept)


def choose_launch(num_pairs: int, num_experts: int) -> Launch:
    """Tiles for so many pairs: experts that get more than a tile's rows read their weights again, from the L2."""
    busy = 2 * num_pairs / num_experts
    return next((launch for launch in LAUNCHES[:-1] if busy <= launch.rows), LAUNCHES[-1])


def fitting(launch: Launch, device: torch.device) -> Launch:
    """With as many loads in flight as the card's shared memory holds; Hopper's holds all of `LAUNCHES`."""
    if device.type != "cuda":
        return launch
    properties: Any = torch.cuda.get_device_properties(device)
    room = properties.shared_memory_per_block_optin
    stage = 2 * (launch.rows + launch.width) * launch.inputs
    return launch._replace(num_stages=max(1, min(launch.num_stages, room // stage)))


def multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, pairs: Tensor, ends: Tensor, top_k: int, gate: Gate,
    launch: Launch | None = None,
) -> Tensor:  # fmt: skip
    """As `multiply_experts`. weight (num_experts, inputs, width) of any strides; top_k 0 gathers nothing."""
    (num_experts, num_inputs, num_columns), num_pairs = weight.shape, len(pairs)
    launch = fitting(launch or choose_launch(num_pairs, num_experts), x.device)
    num_outputs = gate.num_outputs(num_columns)
    out = x.new_empty(num_pairs, num_outputs)
    # programs for an expert's rows on average and a quarter more; for busier ones each takes several tiles
    num_row_tiles = triton.cdiv(5 * num_pairs, 4 * num_experts * launch.rows)
    _product_kernel[triton.cdiv(num_columns, launch.width), num_row_tiles, num_experts](
        x, weight, weight if bias is None else bias, pairs, ends, out, num_inputs, num_outputs,
        *weight.stride(), gate.alpha, gate.limit, gate.shift,
        rows=launch.rows, width=launch.width, inputs=launch.inputs, top_k=top_k, has_bias=bias is not None,
        activation=gate.activation, is_gated=gate.is_gated, is_interleaved=gate.is_interleaved,
        is_limited=gate.limit > 0, is_turned=launch.is_turned, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out
