"""What a prompt token, a step and an output token cost, fitted to the history of rows that were computed.

A batch that is full goes through more rows a second than the few rows at its end, so rows that were measured as a small
job say how long a large one takes only once the two are told apart.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, islice, pairwise

import numpy as np

from parquetry.schemas.progress.history import HistoryPoint

#: stretches between counts that tell the costs apart, at least
LEAST_STRETCHES = 3
#: rows whose steps are counted one by one; those of a larger job are as many times more
MOST_COUNTED = 20_000
#: of a worker
SHARDS_IN_FLIGHT = 2


@dataclass(frozen=True)
class StepCosts:
    """Seconds; each is at least 0."""

    #: before the first token
    start: float
    prompt_token: float
    step: float
    output_token: float
    #: how far stretches are from what the costs make of them, as a part of all time
    misfit: float

    @classmethod
    def fit(cls, points: Sequence[HistoryPoint], rows: int, rows_at_once: int) -> StepCosts | None:
        """From a job of so many rows; None where its history is too short to tell."""
        stretches = list(_stretches(points, rows, rows_at_once))
        if len(stretches) < LEAST_STRETCHES:
            return None
        table = np.array([stretch[:-1] for stretch in stretches], float)
        seconds = np.array([stretch[-1] for stretch in stretches], float)
        costs = _least_squares(table, seconds)
        misfit = float(np.linalg.norm(table @ costs - seconds) / max(seconds.sum(), 1e-9))
        start, prompt, step, output = map(float, costs)
        return cls(start, prompt, step, output, misfit)

    def seconds(self, prompt_tokens: float, output_tokens: float, steps: float) -> float:
        """Of all rows of a job on one device."""
        return self.start + self.prompt_token * prompt_tokens + self.step * steps + self.output_token * output_tokens


def _stretches(
    points: Sequence[HistoryPoint], rows: int, rows_at_once: int
) -> Iterable[tuple[float, float, float, float, float]]:
    """Whether it is the first, prompt tokens, steps, output tokens and seconds between two counts."""
    moved = [HistoryPoint(0), *_counts(points)]
    mean_prompt = max(1.0, points[-1].computed_prompt_tokens / rows) if points else 1.0
    for before, after in pairwise(moved):
        outputs = after.computed_output_tokens - before.computed_output_tokens
        begun = (before.computed_prompt_tokens + after.computed_prompt_tokens) / 2 / mean_prompt
        running = min(rows_at_once, begun - (before.rows + after.rows) / 2)
        prompts = after.computed_prompt_tokens - before.computed_prompt_tokens
        seconds = (after.active_ms - before.active_ms) / 1000
        yield float(before.at_ms == 0), prompts, outputs / max(running, 1.0), outputs, seconds


def _counts(points: Sequence[HistoryPoint]) -> list[HistoryPoint]:
    """The points at which something had been computed since the one before."""
    found: list[HistoryPoint] = []
    for point in points:
        last = found[-1] if found else HistoryPoint(0)
        if point.computed_prompt_tokens + point.computed_output_tokens > (
            last.computed_prompt_tokens + last.computed_output_tokens
        ):
            found.append(point)
    return found


def _least_squares(table: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The costs, none below 0, that miss the seconds least: of every choice of columns the best that is allowed."""
    num_columns = table.shape[1]
    best, best_miss = np.zeros(num_columns), float(np.linalg.norm(seconds))
    for count in range(1, num_columns + 1):
        for chosen in map(list, combinations(range(num_columns), count)):
            found, *_ = np.linalg.lstsq(table[:, chosen], seconds, rcond=None)
            miss = float(np.linalg.norm(table[:, chosen] @ found - seconds))
            if (found >= 0).all() and miss < best_miss * (1 - 1e-6):
                best, best_miss = np.zeros(num_columns), miss
                best[chosen] = found
    return best


def num_steps(lengths: Sequence[int], rows: int, rows_at_once: int, rows_per_shard: int) -> float:
    """Steps of `rows` rows whose outputs have these lengths, over and over; a row begins where another has ended.

    A worker has few shards in flight, so that a shard's last rows may keep those of the next one waiting.
    """
    if not lengths:
        return 0.0
    counted, given = min(rows, MOST_COUNTED), cycle(lengths)
    lanes = [0] * max(1, min(rows_at_once, counted))
    in_flight = [0] * SHARDS_IN_FLIGHT
    for first in range(0, counted, rows_per_shard):
        begin = heapq.heappop(in_flight)
        ends = [_place(lanes, begin, length) for length in islice(given, min(rows_per_shard, counted - first))]
        heapq.heappush(in_flight, max(ends))
    return max(in_flight) * rows / counted


def _place(lanes: list[int], begin: int, length: int) -> int:
    """The step at which a row ends that begins in the first free lane, and not before its shard."""
    end = max(begin, heapq.heappop(lanes)) + length
    heapq.heappush(lanes, end)
    return end
