"""The products of tokens with the weights of their experts, and the gate behind them, as one operator."""

from __future__ import annotations

import torch
from torch import Tensor

from parquetry.workers.fusing.expert_gates import Gate, apply_gate


# opaque: a compiler would gather tokens and apply gates in passes of their own
@torch.library.custom_op("parquetry::multiply_experts", mutates_args=())
def multiply_experts(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    ends: Tensor,
    is_transposed: bool,
    top_k: int,
    gate: str,
) -> Tensor:
    """Each row times its expert's weight (num_experts, width, inputs), plus its bias, through a gate (its word).

    With a `top_k` x is (num_tokens, inputs), and each row is that of its token; with 0 it is (num_rows, inputs). pairs
    and ends are those of `place_experts`. A weight that `is_transposed` is (num_experts, inputs, width). Returns
    (num_rows, outputs); those of other ranks' pairs are left as they are in memory.
    """
    weight = weight if is_transposed else weight.transpose(1, 2)
    if x.is_cuda:
        # Importing the kernels imports Triton, which a CPU build of torch does not bring.
        from parquetry.workers.fusing.expert_product_kernel import multiply

        return multiply(x.contiguous(), weight, bias, pairs, ends, top_k, Gate.of(gate))
    return multiply_one_by_one(x, weight, bias, pairs, ends, top_k, Gate.of(gate))


@multiply_experts.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pairs: Tensor,
    ends: Tensor,
    is_transposed: bool,
    top_k: int,
    gate: str,
) -> Tensor:
    return x.new_empty(pairs.shape[0], Gate.of(gate).num_outputs(weight.shape[2 if is_transposed else 1]))


def multiply_one_by_one(
    x: Tensor, weight: Tensor, bias: Tensor | None, pairs: Tensor, ends: Tensor, top_k: int, gate: Gate
) -> Tensor:
    """The same without kernels: one product an expert. weight (num_experts, inputs, width)."""
    rows = x[pairs.long() // top_k] if top_k else x
    out = rows.new_zeros(len(rows), gate.num_outputs(weight.shape[2]))
    start = 0
    for expert, end in enumerate(ends.tolist()):
        products = rows[start:end] @ weight[expert]
        out[start:end] = apply_gate(products if bias is None else products + bias[expert], gate)
        start = end
    return out
