"""What the workers of a job compute in a second, and what a prompt token costs beside an output token.

Everything is counted against the time in which workers computed: waiting and loading are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from parquetry.schemas.progress.history import HistoryPoint

#: present rates are those of the last minute of work, or of this part of all work where that is longer
RECENT_S = 60.0
RECENT_SHARE = 0.25
#: what a prompt token costs beside an output token until the job has shown it: prompts are computed many at a time
USUAL_RATIO = 0.1
RATIOS = (0.004, 1.0)
#: no step is thought to take longer
STALL_S = 60.0
#: how much the usual ratio weighs beside what was seen
PRIOR_WEIGHT = 0.02


@dataclass(frozen=True)
class Step:
    """What happened between two points."""

    active_s: float
    worker_s: float
    rows: int
    prompt: int
    output: int

    @classmethod
    def between(cls, a: HistoryPoint, b: HistoryPoint) -> Step:
        """From one point to a later one."""
        return cls(
            active_s=max(0, b.active_ms - a.active_ms) / 1000,
            worker_s=max(0, b.worker_ms - a.worker_ms) / 1000,
            rows=b.rows - b.reused_rows - a.rows + a.reused_rows,
            prompt=_computed_prompt(b) - _computed_prompt(a),
            output=_computed_output(b) - _computed_output(a),
        )


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Rates over the last stretch of work, per second in which at least one worker computed."""

    #: that stretch, and the same summed over workers
    active_s: float
    worker_s: float
    rows: int
    prompt_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, points: Sequence[HistoryPoint]) -> Pace | None:
        """The pace at the last point; None before anything was computed."""
        if not points:
            return None
        # the wait for the end of a step does not lower the rate, unless it lasts too long for one
        moving = changes(points) if idle_s(points) < STALL_S else points
        steps = [Step.between(*pair) for pair in pairwise(_recent(moving))]
        # work that was taken back is done again, and neither its loss nor the time of it tells of the pace
        steps = [step for step in steps if step.prompt >= 0 and step.output >= 0]
        found = cls(
            active_s=sum(step.active_s for step in steps),
            worker_s=sum(step.worker_s for step in steps),
            rows=sum(max(0, step.rows) for step in steps),
            prompt_tokens=sum(step.prompt for step in steps),
            output_tokens=sum(step.output for step in steps),
        )
        return found if found.active_s > 0 and found.worker_s > 0 and found.has_moved else None

    @property
    def has_moved(self) -> bool:
        """Whether anything was computed or finished."""
        return bool(self.rows or self.prompt_tokens or self.output_tokens)


def _recent(points: Sequence[HistoryPoint]) -> list[HistoryPoint]:
    """The last stretch of work."""
    last = points[-1]
    begun = next((point.active_ms for point in points if point.active_ms), 0)
    stretch = max(1000 * RECENT_S, RECENT_SHARE * (last.active_ms - begun))
    return [point for point in points if last.active_ms - point.active_ms <= stretch]


def changes(points: Sequence[HistoryPoint]) -> list[HistoryPoint]:
    """The points at which tokens were counted.

    A step of an engine may take many points, and what it computes is counted at its end: only between ends do tokens
    and time belong to each other.
    """
    found = list(points[:1])
    for point in points[1:]:
        if _tokens(point) != _tokens(found[-1]) or point.rows != found[-1].rows:
            found.append(point)
    return found


def _tokens(point: HistoryPoint) -> int:
    return _computed_prompt(point) + _computed_output(point)


def _computed_prompt(point: HistoryPoint) -> int:
    """Computed at that time or before, but for what counts a second time since a later attempt took it over."""
    return point.computed_prompt_tokens - point.reused_prompt_tokens


def _computed_output(point: HistoryPoint) -> int:
    return point.computed_output_tokens - point.reused_output_tokens


def idle_s(points: Sequence[HistoryPoint]) -> float:
    """How long nothing was counted up to the last point, in time of work: a step that is not over yet."""
    return (points[-1].active_ms - changes(points)[-1].active_ms) / 1000 if points else 0.0


def cost_ratio(points: Sequence[HistoryPoint]) -> float:
    """What a prompt token costs in output tokens: least squares over the stretches between points.

    Prompts and outputs that come in step tell nothing of it; then the usual ratio stands.
    """
    steps = [Step.between(a, b) for a, b in pairwise(changes(points))]
    steps = [step for step in steps if step.worker_s > 0 and step.prompt >= 0 and step.output >= 0]
    prompt2 = sum(step.prompt**2 for step in steps)
    output2 = sum(step.output**2 for step in steps)
    if not prompt2 or not output2:
        return USUAL_RATIO
    both = sum(step.prompt * step.output for step in steps)
    prompt_t = sum(step.prompt * step.worker_s for step in steps)
    output_t = sum(step.output * step.worker_s for step in steps)
    # one more equation, prompt cost = usual ratio * output cost, keeps what the steps leave open
    weight = PRIOR_WEIGHT * prompt2
    m11, m12, m22 = prompt2 + weight, both - weight * USUAL_RATIO, output2 + weight * USUAL_RATIO**2
    determinant = m11 * m22 - m12**2
    of_prompt = (m22 * prompt_t - m12 * output_t) / determinant
    of_output = (m11 * output_t - m12 * prompt_t) / determinant
    if of_output <= 0:
        return RATIOS[1]
    return min(max(of_prompt / of_output, RATIOS[0]), RATIOS[1])
