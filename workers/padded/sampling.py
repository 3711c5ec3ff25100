"""Per-row choice of the next token inside transformers' generate: penalties, filters and keyed noise, then argmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from parquetry.workers.grammar.padded import BatchGrammars
from parquetry.workers.noise import gumbel_noise, request_key
from parquetry.workers.request import GenerationRequest, SamplingParams


class RowSampling(LogitsProcessor):
    """Turns the logits of a batch into scores whose argmax is each row's next token.

    Greedy rows keep their logits. For the others the noise is keyed by seed, row, sample and position, so a row's
    tokens do not depend on which rows share its batch.
    """

    def __init__(
        self,
        requests: Sequence[GenerationRequest],
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        grammars: BatchGrammars | None = None,
    ) -> None:
        self._grammars = grammars
        params = [request.params for request in requests]
        device = prompt_ids.device
        self._prompt_lengths = torch.tensor([len(request.prompt_ids) for request in requests], device=device)
        self._random = torch.tensor([index for index, p in enumerate(params) if p.temperature > 0], device=device)
        chosen = [(request, request.params) for request in requests if request.params.temperature > 0]
        keys = [request_key(p.seed, request.row, request.sample) for request, p in chosen]
        self._keys = torch.tensor(keys, dtype=torch.int64, device=device).reshape(-1, 2)
        self._filter = RowFilter([p for _, p in chosen], device)
        self._penalty = RowPenalty(params, prompt_ids, prompt_mask)
        self._wants_logprobs = any(p.logprobs for p in params)
        self._logprobs: list[Tensor] = []
        self._start: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """input_ids (num_rows, length), scores (num_rows, vocab_size)."""
        if self._start is None:
            self._start = input_ids.shape[1]
        raw = scores.float()
        scores = raw if self._grammars is None else self._grammars.constrain(raw)
        scores = self._penalty(scores, input_ids[:, self._start :])
        if len(self._random):
            scores = self._randomise(scores, input_ids.shape[1] - self._start)
        if self._wants_logprobs:
            token = scores.argmax(-1, keepdim=True)
            self._logprobs.append(raw.log_softmax(-1).gather(-1, token)[:, 0])
        return scores

    def _randomise(self, scores: Tensor, num_outputs: int) -> Tensor:
        filtered = self._filter(scores[self._random])
        positions = self._prompt_lengths[self._random] + num_outputs
        noisy = filtered + gumbel_noise(self._keys, positions, scores.shape[-1])
        return scores.index_copy(0, self._random, noisy)

    def logprobs(self) -> np.ndarray | None:
        """(num_rows, num_steps) float32 log-probabilities of the chosen tokens under the model, unfiltered."""
        return torch.stack(self._logprobs, dim=1).cpu().numpy() if self._logprobs else None


class RowFilter:
    """Temperature, then top-k, top-p and min-p, each with its own value in every row."""

    def __init__(self, params: Sequence[SamplingParams], device: torch.device) -> None:
        self._temperature = _column(params, "temperature", device)
        self._top_k = _column(params, "top_k", device) if any(p.top_k > 0 for p in params) else None
        self._top_p = _column(params, "top_p", device) if any(p.top_p < 1 for p in params) else None
        self._min_p = _column(params, "min_p", device) if any(p.min_p > 0 for p in params) else None

    def __call__(self, logits: Tensor) -> Tensor:
        """(num_rows, vocab_size) in and out; what is ruled out becomes -inf."""
        logits = logits / self._temperature
        if self._top_k is not None:
            logits = keep_top_k(logits, self._top_k)
        if self._top_p is not None:
            logits = keep_top_p(logits, self._top_p)
        return logits if self._min_p is None else keep_min_p(logits, self._min_p)


def keep_top_k(logits: Tensor, top_k: Tensor) -> Tensor:
    """Keep the `top_k` (num_rows, 1) largest of each row, ties included; 0 keeps all."""
    size = logits.shape[-1]
    wanted = torch.where(top_k > 0, top_k, size).clamp(max=size)
    threshold = logits.topk(int(wanted.max()), dim=-1).values.gather(-1, wanted - 1)
    return logits.masked_fill(logits < threshold, -torch.inf)


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest most likely tokens of each row whose probabilities reach `top_p` (num_rows, 1)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # a row with top_p 1 keeps all, however its sum rounds
    drop = (before >= top_p) & (top_p < 1)
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


def keep_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    """Keep tokens at least `min_p` (num_rows, 1) times as likely as the likeliest."""
    floor = logits.max(-1, keepdim=True).values + min_p.log()
    return logits.masked_fill(logits < floor, -torch.inf)


class RowPenalty:
    """Repetition penalty over prompt and output, presence and frequency penalties over the output."""

    def __init__(self, params: Sequence[SamplingParams], prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        """prompt_ids and prompt_mask (num_rows, length): what is masked was never there."""
        device = prompt_ids.device
        self._repetition = _column(params, "repetition_penalty", device)
        self._presence = _column(params, "presence_penalty", device)
        self._frequency = _column(params, "frequency_penalty", device)
        self._prompt = prompt_ids, prompt_mask
        self._is_neutral = all(_is_neutral(p) for p in params)

    def __call__(self, logits: Tensor, output_ids: Tensor) -> Tensor:
        """logits (num_rows, vocab_size) and output_ids (num_rows, num_outputs)."""
        if self._is_neutral:
            return logits
        counts = _count(output_ids, torch.ones_like(output_ids), logits.shape)
        seen = (_count(*self._prompt, logits.shape) + counts) > 0
        scaled = torch.where(logits > 0, logits / self._repetition, logits * self._repetition)
        logits = torch.where(seen, scaled, logits)
        return logits - self._frequency * counts - self._presence * (counts > 0)


def _is_neutral(params: SamplingParams) -> bool:
    return params.repetition_penalty == 1 and params.presence_penalty == 0 and params.frequency_penalty == 0


def _column(params: Sequence[SamplingParams], name: str, device: torch.device) -> Tensor:
    """(num_rows, 1), to be broadcast over the vocabulary."""
    return torch.tensor([getattr(p, name) for p in params], device=device)[:, None]


def _count(ids: Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
    """(num_rows, vocab_size) float32: the weight of each id in each row.

    Ids that the model reads and cannot write, such as the placeholders of images, are not counted.
    """
    num_rows, size = shape
    counts = torch.zeros(num_rows, size + 1, device=ids.device)
    return counts.scatter_add(1, ids.clamp(max=size), weights.float())[:, :size]
