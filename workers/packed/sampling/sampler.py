"""Chooses the next token of every sampled lane, each with its own parameters, in one pass over the logits."""

from __future__ import annotations

from collections.abc import Sequence as Many
from enum import IntFlag

import numpy as np
import torch
from torch import Tensor

from parquetry.workers.grammar.bitmask import apply_bitmask
from parquetry.workers.noise import request_key
from parquetry.workers.packed.sampling.race import Draw, race_in_torch, race_on_gpu
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.request import SamplingParams

TEMPERATURE, TOP_P, MIN_P, REPETITION, PRESENCE, FREQUENCY = range(6)
TOP_K, KEY_LOW, KEY_HIGH = range(3)
#: where the count of a token stays: what an int16 holds
MAX_COUNT = 2**15 - 1
#: rows penalised at once: each takes a few times its logits in float32
PENALTY_ROWS = 128


class SamplingMode(IntFlag):
    """Stages of the sampler that at least one lane of a step needs; the others are skipped."""

    GREEDY = 0
    RANDOM = 1
    FILTER = 2
    PENALTY = 4
    LOGPROBS = 8
    #: some lanes may not write every token, and which they may is known only when the token before is
    GRAMMAR = 16


def sampling_mode(params: SamplingParams) -> SamplingMode:
    """What one request needs of the sampler."""
    mode = SamplingMode.GREEDY
    if params.temperature > 0:
        mode |= SamplingMode.RANDOM
        if params.top_k > 0 or params.top_p < 1 or params.min_p > 0:
            mode |= SamplingMode.FILTER
    if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
        mode |= SamplingMode.PENALTY
    if params.grammar is not None:
        mode |= SamplingMode.GRAMMAR
    return mode | SamplingMode.LOGPROBS if params.logprobs else mode


class Sampler:
    """Per-lane sampling parameters on the device, and the arithmetic over them."""

    def __init__(self, num_lanes: int, vocab_size: int, device: torch.device) -> None:
        # One lane more than the host has: padding samples into it.
        self.num_lanes = num_lanes + 1
        self.vocab_size = vocab_size
        self.device = device
        self.floats = torch.zeros(self.num_lanes, 6, device=device)
        self.ints = torch.zeros(self.num_lanes, 3, dtype=torch.int64, device=device)
        #: (num_lanes, vocab_size) outputs so far, and whether the prompt has the token; made on first use
        self.counts: Tensor | None = None
        self.in_prompt: Tensor | None = None

    def admit(self, sequences: Many[Sequence]) -> None:
        """Load the parameters of sequences that just got their lanes."""
        lanes = torch.tensor([s.lane for s in sequences]).to(self.device, non_blocking=True)
        params = [s.request.params for s in sequences]
        floats = [
            (p.temperature, p.top_p, p.min_p, p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
            for p in params
        ]
        ints = [(s.request.params.top_k, *self._key(s)) for s in sequences]
        self.floats[lanes] = torch.tensor(floats).to(self.device, non_blocking=True)
        self.ints[lanes] = torch.tensor(ints).to(self.device, non_blocking=True)
        for sequence, p in zip(sequences, params, strict=True):
            if sampling_mode(p) & SamplingMode.PENALTY:
                self._count(sequence)

    @staticmethod
    def _key(sequence: Sequence) -> tuple[int, int]:
        request = sequence.request
        return request_key(request.params.seed, request.row, request.sample)

    def _count(self, sequence: Sequence) -> None:
        """Start the token counts of a lane: the prompt, and outputs that a preemption left behind."""
        if self.counts is None or self.in_prompt is None:
            shape = (self.num_lanes, self.vocab_size)
            self.counts = torch.zeros(shape, dtype=torch.int16, device=self.device)
            self.in_prompt = torch.zeros(shape, dtype=torch.bool, device=self.device)
        tokens = torch.from_numpy(sequence.tokens.astype(np.int64)).to(self.device)
        prompt, outputs = tokens[: sequence.num_prompt_tokens], tokens[sequence.num_prompt_tokens :]
        self.in_prompt[sequence.lane].zero_().index_fill_(0, prompt, True)
        self.counts[sequence.lane].zero_()
        if len(outputs):
            counts = torch.bincount(outputs, minlength=self.vocab_size)
            self.counts[sequence.lane] = counts.clamp_max(MAX_COUNT).to(torch.int16)

    def sample(
        self, logits: Tensor, lanes: Tensor, positions: Tensor, mode: SamplingMode, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """logits (num_sampled, vocab), lanes and positions of the new tokens (num_sampled,) int64.

        `allowed` (num_sampled, vocab / 32) int32 has a bit for each token that a row may write, None allows all.

        Returns tokens (num_sampled,) int64 and, when the mode asks, their log-probabilities under the bare model.
        """
        # masks and the best score need no more digits
        scores = logits.float() if mode & ~SamplingMode.GRAMMAR else logits
        if allowed is not None:
            scores = apply_bitmask(scores, allowed)
        if mode & SamplingMode.PENALTY:
            scores = self._penalise(scores, lanes)
        tokens = self._pick(scores, lanes, positions, mode) if mode & SamplingMode.RANDOM else scores.argmax(-1)
        if mode & SamplingMode.PENALTY:
            self._count_outputs(lanes, tokens)
        if not mode & SamplingMode.LOGPROBS:
            return tokens, None
        chosen = logits.float().log_softmax(-1).gather(-1, tokens[:, None])
        return tokens, chosen[:, 0]

    def _pick(self, scores: Tensor, lanes: Tensor, positions: Tensor, mode: SamplingMode) -> Tensor:
        """A draw for every row with a temperature, the best token for the others."""
        floats, ints = self.floats[lanes], self.ints[lanes]
        race = race_on_gpu if scores.device.type == "cuda" else race_in_torch
        return race(
            scores,
            Draw(
                temperature=floats[:, TEMPERATURE],
                top_k=ints[:, TOP_K],
                top_p=floats[:, TOP_P],
                min_p=floats[:, MIN_P],
                keys=ints[:, KEY_LOW:],
                positions=positions,
                is_filtered=bool(mode & SamplingMode.FILTER),
            ),
        )

    def _penalise(self, scores: Tensor, lanes: Tensor) -> Tensor:
        """A copy of scores with the penalties of its rows.

        Lanes without penalties come out as they went in, to the last bit.
        """
        scores = scores.clone()
        for first in range(0, len(scores), PENALTY_ROWS):
            rows = slice(first, first + PENALTY_ROWS)
            self._penalise_rows(scores[rows], lanes[rows])
        return scores

    def _penalise_rows(self, scores: Tensor, lanes: Tensor) -> None:
        """In place, in the order of transformers and vLLM: repetition counts the prompt too, the others the output."""
        assert self.counts is not None and self.in_prompt is not None
        floats, counts = self.floats[lanes], self.counts[lanes]
        is_output = counts > 0
        repetition = floats[:, REPETITION, None]
        repeated = torch.where(scores > 0, scores / repetition, scores * repetition)
        scores.copy_(torch.where(self.in_prompt[lanes] | is_output, repeated, scores))
        scores -= floats[:, FREQUENCY, None] * counts
        scores -= floats[:, PRESENCE, None] * is_output

    def _count_outputs(self, lanes: Tensor, tokens: Tensor) -> None:
        assert self.counts is not None
        self.counts[lanes, tokens] += (self.counts[lanes, tokens] < MAX_COUNT).to(torch.int16)
