"""Filters and penalties on small tensors worked out by hand, and against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from parquetry.workers.padded.sampling import RowFilter, RowPenalty, keep_min_p, keep_top_k, keep_top_p
from parquetry.workers.request import SamplingParams

INF = float("inf")
#: probabilities .5 .3 .15 .05
LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def kept(logits: torch.Tensor) -> list[list[bool]]:
    return (logits > -INF).tolist()


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_top_k_keeps_ties_and_zero_keeps_all():
    logits = torch.tensor([[3.0, 1.0, 2.0, 1.0]]).repeat(4, 1)

    assert kept(keep_top_k(logits, column(0, 1, 2, 3).long())) == [
        [True] * 4,
        [True, False, False, False],
        [True, False, True, False],
        [True] * 4,
    ]


def test_top_k_beyond_the_vocabulary():
    assert kept(keep_top_k(LOGITS, column(99).long())) == [[True] * 4]


@pytest.mark.parametrize(("top_p", "count"), [(0.01, 1), (0.49, 1), (0.6, 2), (0.85, 3), (0.99, 4), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_it(top_p, count):
    assert kept(keep_top_p(LOGITS, column(top_p))) == [[index < count for index in range(4)]]


@pytest.mark.parametrize(("min_p", "count"), [(0.0, 4), (0.2, 3), (0.59, 2), (0.61, 1)])
def test_min_p_is_relative_to_the_likeliest(min_p, count):
    assert kept(keep_min_p(LOGITS, column(min_p))) == [[index < count for index in range(4)]]


def test_filters_apply_row_by_row():
    params = [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=2.0, top_k=1),
        SamplingParams(temperature=1.0, top_p=0.6),
    ]

    filtered = RowFilter(params, torch.device("cpu"))(LOGITS.repeat(3, 1))

    assert kept(filtered) == [[True] * 4, [True, False, False, False], [True, True, False, False]]
    assert filtered[1, 0] == LOGITS[0, 0] / 2


def test_penalties():
    params = [
        SamplingParams(),
        SamplingParams(repetition_penalty=2.0),
        SamplingParams(presence_penalty=1.0),
        SamplingParams(frequency_penalty=1.0),
    ]
    prompt = torch.tensor([[0, 1]]).repeat(4, 1)
    mask = torch.tensor([[0, 1]]).repeat(4, 1)
    outputs = torch.tensor([[2, 2]]).repeat(4, 1)
    logits = torch.tensor([[4.0, 4.0, -4.0, 4.0]]).repeat(4, 1)

    penalized = RowPenalty(params, prompt, mask)(logits, outputs)

    assert penalized.tolist() == [
        [4, 4, -4, 4],
        # token 0 is padding, 1 is in the prompt, 2 in the output
        [4, 2, -8, 4],
        [4, 4, -5, 4],
        [4, 4, -6, 4],
    ]


@pytest.mark.parametrize("seed", range(10))
def test_filters_are_those_of_transformers(seed):
    logits = torch.randn(6, 80, generator=torch.Generator().manual_seed(seed)) * 3
    params = SamplingParams(temperature=1.3, top_k=30, top_p=0.9, min_p=0.05)
    warpers = [TemperatureLogitsWarper(1.3), TopKLogitsWarper(30), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]

    expected = logits
    for warper in warpers:
        expected = warper(None, expected)

    assert torch.equal(RowFilter([params] * 6, torch.device("cpu"))(logits), expected)
    assert 1 < int(torch.isfinite(expected).sum()) < 6 * 30


@pytest.mark.parametrize("penalty", [0.6, 1.0, 1.9])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(4, 50, generator=generator)
    ids = torch.randint(50, (4, 30), generator=generator)
    rule = RowPenalty([SamplingParams(repetition_penalty=penalty)] * 4, ids[:, :20], torch.ones(4, 20))

    assert torch.equal(rule(logits, ids[:, 20:]), RepetitionPenaltyLogitsProcessor(penalty)(ids, logits))


def test_ids_that_the_model_reads_but_cannot_write_are_not_counted():
    prompt = torch.tensor([[1, 4, 900]])
    rule = RowPenalty([SamplingParams(repetition_penalty=2.0)], prompt, torch.ones_like(prompt))

    assert rule(torch.ones(1, 4), torch.empty(1, 0, dtype=torch.long)).tolist() == [[1, 0.5, 1, 1]]
