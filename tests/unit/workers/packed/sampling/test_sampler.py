"""The sampler against hand-computed rows, the obvious sort and transformers' processors."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from parquetry.workers.noise import gumbel_noise, mix, request_key
from parquetry.workers.packed.sampling.sampler import Sampler, SamplingMode, sampling_mode
from parquetry.workers.packed.sampling.threshold import keep_min_p, keep_top_k, keep_top_p
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.request import GenerationRequest, SamplingParams

INF = float("inf")


def admit(*params: SamplingParams, vocab_size: int = 4, tokens: list[int] | None = None) -> Sampler:
    sampler = Sampler(len(params), vocab_size, torch.device("cpu"))
    sequences = []
    for lane, p in enumerate(params):
        prompt = np.asarray(tokens or [0], dtype=np.int32)
        sequence = Sequence(GenerationRequest(id=lane, row=lane, prompt_ids=prompt, params=p))
        sequence.lane = lane
        sequences.append(sequence)
    sampler.admit(sequences)
    return sampler


def draw(sampler: Sampler, logits: list[list[float]], position: int, params: SamplingParams) -> list[int]:
    lanes = torch.arange(len(logits))
    positions = torch.full((len(logits),), position)
    return sampler.sample(torch.tensor(logits), lanes, positions, sampling_mode(params))[0].tolist()


def test_filters_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    kept = lambda x: torch.isfinite(x)[0].tolist()  # noqa: E731
    assert kept(keep_top_k(logits, torch.tensor([2]))) == [True, True, False, False]
    assert kept(keep_top_k(logits, torch.tensor([0]))) == [True] * 4
    assert kept(keep_top_p(logits, torch.tensor([0.79]))) == [True, True, False, False]
    assert kept(keep_top_p(logits, torch.tensor([0.81]))) == [True, True, True, False]
    assert kept(keep_top_p(logits, torch.tensor([1.0]))) == [True] * 4
    assert kept(keep_min_p(logits, torch.tensor([0.29]))) == [True, True, True, False]
    assert kept(keep_min_p(logits, torch.tensor([0.0]))) == [True] * 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.floats(0.05, 0.99))
def test_cuts_equal_a_sort(seed: int, k: int, p: float) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3
    ranked = logits.sort(-1, descending=True)
    expected = torch.zeros(3, 50, dtype=torch.bool).scatter(-1, ranked.indices[:, :k], True)
    assert torch.equal(torch.isfinite(keep_top_k(logits, torch.full((3,), k))), expected)
    before = ranked.values.softmax(-1).cumsum(-1) - ranked.values.softmax(-1)
    is_clear = (before - p).abs() > 1e-5
    kept = torch.isfinite(keep_top_p(logits, torch.full((3,), p))).gather(-1, ranked.indices)
    assert torch.equal(kept[is_clear], (before < p)[is_clear])


def test_penalties_by_hand() -> None:
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    sampler = admit(params, tokens=[0, 1])
    logits = [[3.0, -1.0, 1.4, 1.0]]
    # 3.0 / 2 = 1.5 stays ahead; then 1.5 - 0.5 - 0.25 = 0.75, and token 2 leads with 1.4.
    assert draw(sampler, logits, 2, params) == [0]
    assert draw(sampler, logits, 3, params) == [2]
    # Token 2 is now repeated: 1.4 / 2 - 0.75 < 0. Token 3 leads with 1.0.
    assert draw(sampler, logits, 4, params) == [3]
    assert sampler.counts is not None
    assert sampler.counts[0].tolist() == [1, 0, 1, 1]


def test_greedy_and_random_rows_share_a_batch() -> None:
    greedy, hot = SamplingParams(), SamplingParams(temperature=50.0)
    sampler = admit(greedy, hot, vocab_size=4)
    rows = [draw(sampler, [[0.0, 0.0, 0.1, 0.0]] * 2, position, hot) for position in range(40)]
    assert {row[0] for row in rows} == {2}
    assert {row[1] for row in rows} == {0, 1, 2, 3}


def test_logprobs_belong_to_the_bare_model() -> None:
    params = SamplingParams(temperature=0.5, logprobs=True)
    sampler = admit(params)
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    tokens, logprobs = sampler.sample(logits, torch.tensor([0]), torch.tensor([9]), sampling_mode(params))
    assert logprobs is not None
    assert math.isclose(float(logprobs[0]), float(logits[0, tokens[0]]), abs_tol=1e-6)


def test_modes_name_what_a_request_needs() -> None:
    assert sampling_mode(SamplingParams(top_p=0.5)) == SamplingMode.GREEDY
    assert sampling_mode(SamplingParams(temperature=1.0, min_p=0.1)) == SamplingMode.RANDOM | SamplingMode.FILTER
    assert sampling_mode(SamplingParams(frequency_penalty=0.1)) == SamplingMode.PENALTY


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20000
    keys = torch.tensor([request_key(0, 0, 0)]).expand(n, 2)
    picks = (probs.log() + gumbel_noise(keys, torch.arange(n), 4)).argmax(-1)
    share = torch.bincount(picks, minlength=4) / n
    assert torch.allclose(share, probs, atol=0.012)


def test_noise_is_keyed_by_request_and_position() -> None:
    keys = torch.tensor([request_key(0, 0, 0), request_key(0, 0, 1), request_key(0, 1, 0), request_key(1, 0, 0)])
    noise = gumbel_noise(keys, torch.zeros(4, dtype=torch.int64), 64)
    assert len({tuple(row) for row in noise.tolist()}) == 4
    alone = gumbel_noise(keys[2:3], torch.zeros(1, dtype=torch.int64), 64)
    assert torch.equal(noise[2:3], alone)
    assert not torch.equal(alone, gumbel_noise(keys[2:3], torch.ones(1, dtype=torch.int64), 64))


def test_mix_is_a_bijection_on_a_sample() -> None:
    x = torch.arange(1 << 16)
    mixed = mix(x)
    assert len(mixed.unique()) == len(x)
    assert int(mixed.min()) >= 0 and int(mixed.max()) < 1 << 32


def processed(logits: torch.Tensor, ids: list[int], num_prompt: int, p: SamplingParams) -> torch.Tensor:
    """logits (vocab,) of one row through transformers' processors; presence and frequency by their definition."""
    row, history = logits[None].clone(), torch.tensor([ids])
    row = RepetitionPenaltyLogitsProcessor(p.repetition_penalty)(history, row)
    for token in set(ids[num_prompt:]):
        row[0, token] -= p.presence_penalty + p.frequency_penalty * ids[num_prompt:].count(token)
    if p.temperature:
        row = TemperatureLogitsWarper(p.temperature)(history, row)
        row = TopKLogitsWarper(p.top_k)(history, row) if p.top_k else row
        row = TopPLogitsWarper(p.top_p)(history, row)
        row = MinPLogitsWarper(p.min_p)(history, row)
    return row[0]


MIXED = [
    SamplingParams(),
    SamplingParams(repetition_penalty=1.5),
    SamplingParams(presence_penalty=1.2, frequency_penalty=-0.4),
    SamplingParams(temperature=0.9, min_p=0.3, seed=3),
    SamplingParams(temperature=1.4, top_k=20, top_p=0.8, min_p=0.05, repetition_penalty=0.8, frequency_penalty=0.7),
]


def test_every_draw_is_that_of_transformers_processors() -> None:
    vocab, prompt = 60, [3, 3, 7, 11, 59]
    sampler = admit(*MIXED, vocab_size=vocab, tokens=prompt)
    mode = SamplingMode(0)
    for params in MIXED:
        mode |= sampling_mode(params)
    histories = [list(prompt) for _ in MIXED]
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        logits = torch.randn(len(MIXED), vocab, generator=generator) * 2
        positions = torch.tensor([len(ids) for ids in histories])
        tokens, _ = sampler.sample(logits, torch.arange(len(MIXED)), positions, mode)
        for row, (params, ids) in enumerate(zip(MIXED, histories, strict=True)):
            expected = processed(logits[row], ids, len(prompt), params)
            if params.temperature:
                key = torch.tensor([request_key(params.seed, row, 0)])
                expected = expected + gumbel_noise(key, positions[row : row + 1], vocab)[0]
            assert int(tokens[row]) == int(expected.argmax())
            ids.append(int(tokens[row]))


def test_a_row_without_penalties_is_untouched_by_its_neighbours() -> None:
    sampler = admit(SamplingParams(), SamplingParams(repetition_penalty=3.0), vocab_size=4, tokens=[0])
    logits = torch.tensor([[0.3, 0.1, float("-inf"), -0.2]] * 2)
    tokens, logprobs = sampler.sample(
        logits, torch.tensor([0, 1]), torch.tensor([1, 1]), SamplingMode.PENALTY | SamplingMode.LOGPROBS
    )
    # 0.3 / 3 = 0.1 ties with token 1, and the first wins
    assert tokens.tolist() == [0, 0]
    assert logprobs is not None
    assert torch.equal(logprobs, logits.log_softmax(-1)[:, 0])
    assert logits[1, 0] == torch.tensor(0.3), "the logits of the model were changed"


def test_more_rows_than_are_penalised_at_once() -> None:
    params = SamplingParams(presence_penalty=2.0)
    sampler = admit(*[params] * 300, vocab_size=3)
    logits = [[1.0, 0.5, 0.0]] * 300
    assert draw(sampler, logits, 1, params) == [0] * 300
    assert draw(sampler, logits, 2, params) == [1] * 300


def test_a_count_stays_at_what_it_can_hold() -> None:
    params = SamplingParams(presence_penalty=0.5)
    sampler = Sampler(1, 3, torch.device("cpu"))
    request = GenerationRequest(id=0, prompt_ids=np.zeros(1, dtype=np.int32), params=params)
    sequence = Sequence(request)
    sequence.lane = 0
    sequence.resume_from(np.zeros(40_000, dtype=np.int32))
    sequence.lane = 0
    sampler.admit([sequence])
    # 0.4 - 0.5 is below 0, but a count that had wrapped round would take nothing off
    assert draw(sampler, [[0.4, 0.0, -9.0]], 40_001, params) == [1]
    assert draw(sampler, [[9.0, 0.0, -9.0]], 40_002, params) == [0]
    assert draw(sampler, [[0.4, -9.0, 0.0]], 40_003, params) == [2]
