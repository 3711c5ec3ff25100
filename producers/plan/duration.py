"""How long a job takes and what it costs, by what some of its rows took that were computed for real."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from parquetry.producers.plan.device_memory import MOST_ROWS
from parquetry.producers.plan.step_costs import SHARDS_IN_FLIGHT, StepCosts, num_steps
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.prediction import Prediction, Range

#: of the mean of a sample, in standard errors: nineteen of twenty lie within
_CONFIDENCE = 1.96
#: a job takes so many times what its steps do: shards are claimed, rows read and parts written (recorded jobs: 1.10)
BESIDE_STEPS = 1.1
#: how far off costs of steps are that were seen for less than a minute, as a part; by how much more where they misfit
COSTS_MARGIN = 0.2


@dataclass(frozen=True)
class MeasuredRows:
    """Rows that were computed for real."""

    rows: int
    #: with an engine that was loaded
    computing_s: float
    #: of each row that has an output; empty where nothing is generated
    output_tokens: Sequence[int] = ()
    #: of the job that they were
    points: Sequence[HistoryPoint] = ()

    @property
    def start_s(self) -> float:
        """Before anything was computed, as far as points tell."""
        idle = [point.active_ms for point in self.points if not point.computed_prompt_tokens]
        return min(max(idle, default=0) / 1000, self.computing_s)

    def rows_at_once(self, rows: int, rows_per_shard: int) -> int:
        """How many rows the engine has in work of a job of `rows`: by its shards, and by the room that these took."""
        bound = min(rows, SHARDS_IN_FLIGHT * rows_per_shard, MOST_ROWS)
        busiest = max(self.points, key=lambda point: point.requests_running, default=None)
        if busiest is None or not busiest.requests_running:
            return bound
        if any(point.requests_waiting for point in self.points):
            return min(bound, busiest.requests_running)
        return min(bound, max(1, busiest.requests_running * 1000 // max(busiest.kv_use, 1)))


@dataclass(frozen=True)
class _Estimate:
    """Seconds of one card, how far off they may be as a part, and what was reckoned."""

    seconds: float
    margin: float
    how: str


@dataclass(frozen=True)
class Whole:
    """The job that is predicted."""

    rows: int
    #: None where every row's prompt is like those of the rows that were measured
    prompt_tokens: int | None = None
    rows_per_shard: int | None = None


def predict(measured: MeasuredRows, whole: Whole, *, gpus: int = 1, price: float | None = None) -> Prediction:
    """What a job takes by what some of its rows took, of which there must be one."""
    rows = whole.rows
    spread = _spread(measured.output_tokens)
    found = _by_costs(measured, whole, spread) or _by_rows(measured, rows, spread)
    return Prediction.of_cards(
        rows,
        outputs_of(measured, rows),
        _around(found.seconds, found.margin),
        gpus=gpus,
        price=price,
        source=f"measured here on {measured.rows:,} rows{found.how}",
    )


def outputs_of(measured: MeasuredRows, rows: int) -> Range:
    """Output tokens of `rows` rows like those that were measured."""
    return _around(rows * sum(measured.output_tokens) / measured.rows, _spread(measured.output_tokens))


def _by_costs(measured: MeasuredRows, whole: Whole, spread: float) -> _Estimate | None:
    """From the costs of prompts and steps, where the rows took long enough to tell them."""
    here = measured.rows_at_once(measured.rows, measured.rows)
    costs = StepCosts.fit(measured.points, measured.rows, here) if measured.output_tokens else None
    if costs is None:
        return None
    rows, last = whole.rows, measured.points[-1]
    per_shard = whole.rows_per_shard or rows
    steps = num_steps(measured.output_tokens, rows, measured.rows_at_once(rows, per_shard), per_shard)
    prompts = rows * last.prompt_tokens / measured.rows if whole.prompt_tokens is None else whole.prompt_tokens
    # a cached prefix saves as much of the others
    prompts *= last.computed_prompt_tokens / max(last.prompt_tokens, 1)
    outputs = rows * last.computed_output_tokens / measured.rows
    seconds = costs.seconds(prompts, outputs, steps) * BESIDE_STEPS
    margin = min(0.9, math.hypot(spread, COSTS_MARGIN, costs.misfit))
    return _Estimate(seconds, margin, ": what prompts and steps cost, for as many rows at once as the job has")


def _by_rows(measured: MeasuredRows, rows: int, spread: float) -> _Estimate:
    """As many times longer as there are more rows, but for the time before the first token."""
    seconds = measured.start_s + (measured.computing_s - measured.start_s) * rows / measured.rows
    return _Estimate(seconds, spread, " at once; a whole job computes more at once and may be faster")


def _around(likely: float, part: float) -> Range:
    return likely * (1 - part), likely, likely * (1 + part)


def _spread(lengths: Sequence[int]) -> float:
    """How far the mean of all may be from that of these, as a part of it; all of it where one length tells nothing."""
    if not lengths or not sum(lengths):
        return 0.0
    if len(lengths) == 1:
        return 1.0
    return min(1.0, _CONFIDENCE * stdev(lengths) / math.sqrt(len(lengths)) / fmean(lengths))
