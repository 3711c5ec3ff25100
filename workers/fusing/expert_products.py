"""The products of tokens with their experts' weights: Triton where an expert has few rows, torch where it has many."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from parquetry.workers.fusing.expert_gates import OPEN, Gate, apply_gate

#: From this many rows an expert, on average, torch's products are faster than ours. Measured, see benchmarks/results.
MANY_ROWS = 128


@torch.library.custom_op("parquetry::multiply_experts", mutates_args=())
def multiply_experts(
    x: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, pairs: Tensor, ends: Tensor,
    is_transposed: bool, is_gathered: bool, gate: str,
) -> Tensor:  # fmt: skip
    """Each slot's row times its expert's weight (num_experts, width, inputs), plus its bias, through a gate (its word).

    x (num_tokens, inputs) when it `is_gathered`, each slot taking its token's row, else (num_slots, inputs). ids
    (num_tokens, top_k); pairs and ends as from `place_experts`. A weight that `is_transposed` is (num_experts, inputs,
    width). Returns (num_slots, outputs); rows of other ranks' slots are left as they are in memory.
    """
    weight = weight if is_transposed else weight.transpose(1, 2)
    x, top_k = x.contiguous(), ids.shape[-1] if is_gathered else 0
    if not x.is_cuda:
        return multiply_one_by_one(x, weight, bias, pairs, ends, top_k, Gate.of(gate))
    # Importing the kernels imports Triton, which a CPU build of torch does not bring.
    from parquetry.workers.fusing.expert_kernels import activate, gather
    from parquetry.workers.fusing.expert_product_kernel import multiply

    if not suits_torch(x, weight, len(pairs)):
        return multiply(x, weight, bias, pairs, ends, top_k, Gate.of(gate))
    rows = gather(x, pairs, top_k) if is_gathered else x
    rows = F.grouped_mm(rows, weight, offs=ends)
    return rows if gate == OPEN and bias is None else activate(rows, bias, ids, pairs, Gate.of(gate))


@multiply_experts.register_fake
def _(x, weight, bias, ids, pairs, ends, is_transposed, is_gathered, gate):
    return x.new_empty(pairs.shape[0], Gate.of(gate).num_outputs(weight.shape[2 if is_transposed else 1]))


def multiply_one_by_one(
    x: Tensor, weight: Tensor, bias: Tensor | None, pairs: Tensor, ends: Tensor, top_k: int, gate: Gate
) -> Tensor:
    """The same without kernels: one product an expert. weight (num_experts, inputs, width); top_k 0 gathers nothing."""
    rows = x[pairs.long() // top_k] if top_k else x
    out = rows.new_zeros(len(rows), gate.num_outputs(weight.shape[2]))
    start = 0
    for expert, end in enumerate(ends.tolist()):
        products = rows[start:end] @ weight[expert]
        out[start:end] = apply_gate(products if bias is None else products + bias[expert], gate)
        start = end
    return out


def suits_torch(x: Tensor, weight: Tensor, num_pairs: int) -> bool:
    """Whether torch has a kernel of its own for this; elsewhere it loops over experts, and waits for the device.

    weight (num_experts, inputs, width). Decided by shapes alone, so that a step can be captured.
    """
    has_kernel = x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) in ((9, 0), (10, 0))
    # its loads are of 16 bytes
    is_aligned = all(size % 8 == 0 for size in weight.shape[1:]) and weight.data_ptr() % 16 == 0
    return has_kernel and is_aligned and num_pairs >= MANY_ROWS * len(weight)
