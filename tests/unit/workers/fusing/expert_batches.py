"""Tokens and the experts they were sent to, for tests of what serves them."""

from __future__ import annotations

import torch
from torch import Tensor

#: how tokens spread: evenly, mostly to the first experts, all to the same, and with experts of other ranks among them
ROUTINGS = ("even", "skewed", "same", "sentinels")


def make_routing(kind: str, num_tokens: int, top_k: int, num_experts: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """ids (num_tokens, top_k) int64, different ones for a token, and weights of the same shape in float32."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num_tokens, num_experts, generator=generator)
    if kind == "skewed":
        scores += 2.0 * torch.linspace(1, 0, num_experts)
    if kind == "same":
        scores = torch.arange(num_experts, 0, -1.0).expand(num_tokens, num_experts)
    values, ids = scores.topk(top_k)
    weights = values.softmax(-1)
    if kind == "sentinels":
        foreign = torch.rand(num_tokens, top_k, generator=generator) < 0.5
        ids, weights = ids.masked_fill(foreign, num_experts), weights.masked_fill(foreign, 0.0)
    return ids, weights
