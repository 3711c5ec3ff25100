"""Where each token goes so that tokens of one expert lie side by side: counted, not sorted.

A pair is one token with one of its experts: pair p is token p // top_k. It has a row in the products. Rows are in the
order of experts, and of pairs within an expert: the same batch is laid out in the same way every time.
"""

from __future__ import annotations

import torch
from torch import Tensor


# opaque: a compiler would see a sort and a scatter in it
@torch.library.custom_op("parquetry::place_experts", mutates_args=())
def place_experts(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids (num_tokens, top_k) of experts, contiguous; one that is not below `num_experts` is another rank's.

    Returns the pair of each row and the row of each pair, both (num_tokens * top_k,) int32, and the row behind the
    last one of each expert (num_experts,) int32. Pairs of other ranks have the rows behind them all.
    """
    if ids.is_cuda:
        # Importing the kernels imports Triton, which a CPU build of torch does not bring.
        from parquetry.workers.fusing.expert_kernels import place

        return place(ids, num_experts)
    flat = ids.reshape(-1)
    pairs = flat.clamp(max=num_experts).argsort(stable=True)
    rows = torch.empty_like(pairs)
    rows[pairs] = torch.arange(len(pairs), device=ids.device)
    counts = torch.bincount(flat[flat < num_experts], minlength=num_experts)
    return pairs.int(), rows.int(), counts.cumsum(0).int()


@place_experts.register_fake
def _(ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    num_pairs = ids.numel()
    pairs, rows = (ids.new_empty(num_pairs, dtype=torch.int32) for _ in range(2))
    return pairs, rows, ids.new_empty(num_experts, dtype=torch.int32)


@torch.library.custom_op("parquetry::sum_experts", mutates_args=())
def sum_experts(
    products: Tensor, rows: Tensor, ends: Tensor, weights: Tensor, bias: Tensor | None, ids: Tensor
) -> Tensor:
    """Weighted sum over a token's experts, in float32 and in the order of its top k, rounded once.

    products (num_rows, width); rows and ends as from `place_experts`; weights and ids (num_tokens,
    top_k); bias (num_experts, width) is added to the products. Returns (num_tokens, width).
    """
    if products.is_cuda:
        from parquetry.workers.fusing.expert_kernels import weigh

        return weigh(products, rows, ends, weights, bias, ids)
    is_ours = rows.view_as(ids) < ends[-1]
    terms = products[rows.view_as(ids).long()].float()
    if bias is not None:
        terms += bias[ids.clamp(max=len(ends) - 1)].float()
    # rows of other ranks' pairs were never written
    terms = torch.where(is_ours[..., None], terms * weights.float()[..., None], 0.0)
    return terms.sum(1).to(products.dtype)


@sum_experts.register_fake
def _(products: Tensor, rows: Tensor, ends: Tensor, weights: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    return products.new_empty(ids.shape[0], products.shape[1])
