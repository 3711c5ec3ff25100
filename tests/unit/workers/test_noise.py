"""Keyed noise: the same wherever and beside whatever it is drawn, and really Gumbel distributed."""

from __future__ import annotations

import math

import pytest
import torch

from parquetry.workers import noise


def keys(*rows: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor([noise.request_key(*row) for row in rows])


def draw(row: tuple[int, int, int], position: int, vocab_size: int = 64) -> torch.Tensor:
    return noise.gumbel_noise(keys(row), torch.tensor([position]), vocab_size)[0]


def test_noise_does_not_depend_on_the_batch():
    batch = noise.gumbel_noise(keys((1, 2, 0), (1, 3, 0), (1, 2, 1)), torch.tensor([5, 6, 7]), 64)

    assert torch.equal(batch[0], draw((1, 2, 0), 5))
    assert torch.equal(batch[2], draw((1, 2, 1), 7))


def test_noise_does_not_depend_on_the_vocabulary_size():
    assert torch.equal(draw((1, 2, 0), 5, 10), draw((1, 2, 0), 5, 64)[:10])


@pytest.mark.parametrize("other", [((2, 2, 0), 5), ((1, 3, 0), 5), ((1, 2, 1), 5), ((1, 2, 0), 6)])
def test_each_part_of_the_key_matters(other):
    assert not torch.equal(draw(*other), draw((1, 2, 0), 5))


def test_the_integers_are_fixed_for_all_time():
    # outputs of finished jobs would change with them
    assert noise.request_key(1, 2, 3) == (2690147370, 1952159906)
    assert noise.mix(torch.tensor([0, 1, 2**32 - 1])).tolist() == [0, 2261973619, 2578835075]


def test_noise_is_always_finite():
    """The largest integer the hash can give must not round up to 1.0, whose noise would be infinite."""
    extremes = torch.tensor([0, 2**32 - 1])
    values = ((extremes >> 9).float() + 0.5) * 2.0**-23

    assert 0 < values[0] < values[1] < 1
    assert torch.isfinite(-torch.log(-torch.log(values))).all()


def test_the_distribution_is_gumbel():
    rows = keys(*((7, row, 0) for row in range(200)))
    values = noise.gumbel_noise(rows, torch.arange(200), 5000).flatten().double()

    assert abs(values.mean() - 0.57721566) < 0.005
    assert abs(values.std() - math.pi / math.sqrt(6)) < 0.005
    assert abs((values < 0).double().mean() - math.exp(-1)) < 0.002


def test_argmax_draws_from_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    rows = keys(*((3, row, 0) for row in range(20_000)))

    chosen = (logits + noise.gumbel_noise(rows, torch.zeros(20_000, dtype=torch.int64), 4)).argmax(-1)

    frequencies = torch.bincount(chosen, minlength=4) / 20_000
    assert torch.allclose(frequencies, logits.softmax(-1), atol=0.012)
