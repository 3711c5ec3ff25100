"""Gumbel-max sampling: the argmax of scores and keyed noise, which does not depend on the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parquetry.workers.noise import gumbel_noise
from parquetry.workers.packed.sampling.threshold import keep_min_p, keep_top_k, keep_top_p


@dataclass(frozen=True)
class Draw:
    """Parameters of one draw per row; every tensor is (num_rows,), but keys are (num_rows, 2)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    keys: Tensor
    #: position that the new token will have
    positions: Tensor
    #: whether any row has a top_k, top_p or min_p
    is_filtered: bool


def race_in_torch(scores: Tensor, draw: Draw) -> Tensor:
    """Tokens (num_rows,) from scores (num_rows, vocab): a draw where the temperature is positive, else the best."""
    is_random = draw.temperature > 0
    scaled = scores / torch.where(is_random, draw.temperature, 1.0)[:, None]
    if draw.is_filtered:
        scaled = keep_min_p(keep_top_p(keep_top_k(scaled, draw.top_k), draw.top_p), draw.min_p)
    noise = gumbel_noise(draw.keys, draw.positions, scores.shape[-1])
    return torch.where(is_random[:, None], scaled + noise, scores).argmax(-1)


def race_on_gpu(scores: Tensor, draw: Draw) -> Tensor:
    """The same in two kernels, without a temporary of the size of the scores."""
    from parquetry.workers.packed.sampling.race_kernels import find_cuts, race

    cuts = None
    if draw.is_filtered:
        cuts = find_cuts(scores, draw.temperature, draw.top_k, draw.top_p, draw.min_p)
    return race(scores, draw.temperature, cuts, draw.keys, draw.positions)
