"""Layers over one rank's share of the weights, with plain exchanges that compile and can be captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parquetry.workers.parallel.group import current_group


# Operators of their own: compiled layers must not look into an exchange, and each returns a tensor nobody else holds.
@torch.library.custom_op("parquetry::row_linear", mutates_args=())
def row_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., share of inputs) times weight (outputs, share of inputs), summed over the ranks."""
    return current_group().sum_in_place(F.linear(x, weight))


@row_linear.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@torch.library.custom_op("parquetry::sum_over_ranks", mutates_args=())
def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of every rank's `x`."""
    return current_group().sum_in_place(x.clone(memory_format=torch.contiguous_format))


@sum_over_ranks.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("parquetry::gather_over_ranks", mutates_args=())
def gather_over_ranks(x: Tensor, width: int) -> Tensor:
    """x (..., share of width) of every rank, side by side: (..., width)."""
    return current_group().gather(x, width).contiguous()


@gather_over_ranks.register_fake
def _(x: Tensor, width: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], width)


class RowLinear(nn.Module):
    """A linear layer whose inputs are shared out; its outputs are whole on every rank."""

    def __init__(self, linear: nn.Linear, *, splits_input: bool) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = self.weight.shape[1], self.weight.shape[0]
        #: the input comes whole, and this rank takes its share
        self.splits_input = splits_input
        self.start = current_group().rank * -(-linear.in_features // current_group().size)

    def forward(self, x: Tensor) -> Tensor:
        if self.splits_input:
            x = x[..., self.start : self.start + self.in_features]
        out = row_linear(x, self.weight)
        return out if self.bias is None else out + self.bias


class GatherLinear(nn.Module):
    """A linear layer whose outputs are computed in shares and then whole on every rank."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        return gather_over_ranks(F.linear(x, self.weight, self.bias), self.out_features)


class Summed(nn.Module):
    """A module over a share of its weights whose output is the sum over the ranks, such as a set of experts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return sum_over_ranks(self.inner(*args, **kwargs))


def look_up_share(embedding: nn.Embedding) -> None:
    """Make an embedding that holds a share of the vocabulary answer for all of it, in place."""
    group = current_group()
    start = group.rank * -(-embedding.num_embeddings // group.size)
    count = embedding.weight.shape[0]
    embedding.num_embeddings, embedding.padding_idx = count, None
    # the class's own, which may scale
    whole = type(embedding).forward

    def forward(ids: Tensor) -> Tensor:
        mine = ids - start
        is_mine = (mine >= 0) & (mine < count)
        vectors = whole(embedding, mine.clamp(0, max(count - 1, 0)))
        return sum_over_ranks(vectors * is_mine[..., None])

    embedding.__dict__["forward"] = forward
