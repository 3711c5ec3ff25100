"""How fast a job was over time, from the points of its history: one row of numbers for each stretch of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

from parquetry.schemas.progress.history import HistoryPoint

#: stretches a chart is made of at most, and the least seconds one lasts
MAX_STRETCHES = 200
LEAST_S = 3.0


@dataclass
class Rates:
    """Columns of equal length; a share is 0 to 1, and None where nothing was counted."""

    #: end of the stretch, seconds since the Unix epoch
    at: list[float] = field(default_factory=list)
    rows_per_s: list[float | None] = field(default_factory=list)
    prompt_tokens_per_s: list[float | None] = field(default_factory=list)
    output_tokens_per_s: list[float | None] = field(default_factory=list)
    #: positions computed for no row
    padding: list[float | None] = field(default_factory=list)
    #: prompt tokens that a cached prefix saved
    cached: list[float | None] = field(default_factory=list)
    #: blocks of the KV cache in use
    kv_use: list[float | None] = field(default_factory=list)
    workers: list[float | None] = field(default_factory=list)

    @classmethod
    def of(cls, points: Sequence[HistoryPoint]) -> Rates:
        """The rates between points that lie far enough apart."""
        found = cls()
        chosen = list(_apart(points))
        for before, now in pairwise(chosen):
            found._add(before, now)
        return found

    def _add(self, before: HistoryPoint, now: HistoryPoint) -> None:
        seconds = (now.at_ms - before.at_ms) / 1000
        prompt = now.computed_prompt_tokens - before.computed_prompt_tokens
        output = now.computed_output_tokens - before.computed_output_tokens
        padding = now.engine_padding_tokens - before.engine_padding_tokens
        computed = now.engine_computed_tokens - before.engine_computed_tokens
        prompts = now.engine_prompt_tokens - before.engine_prompt_tokens
        self.at.append(now.at_ms / 1000)
        # a lost shard takes back what it had counted
        self.rows_per_s.append(max(0.0, (now.rows - before.rows) / seconds))
        self.prompt_tokens_per_s.append(max(0.0, prompt / seconds))
        self.output_tokens_per_s.append(max(0.0, output / seconds))
        self.padding.append(_share(padding, padding + computed))
        self.cached.append(_share(now.engine_cached_tokens - before.engine_cached_tokens, prompts))
        self.kv_use.append(now.kv_use / 1000 if now.workers else None)
        self.workers.append(float(now.workers))

    def as_dict(self) -> dict[str, list[float | None]]:
        """Plain data for JSON, rounded to what a chart can show."""
        return {f.name: [_rounded(value) for value in getattr(self, f.name)] for f in fields(self)}


def _apart(points: Sequence[HistoryPoint]) -> Iterator[HistoryPoint]:
    if not points:
        return
    gap_ms = max(LEAST_S * 1000, (points[-1].at_ms - points[0].at_ms) / MAX_STRETCHES)
    last = points[0]
    yield last
    for point in points[1:]:
        if point.at_ms - last.at_ms >= gap_ms:
            last = point
            yield point
    # a job that is shorter than a stretch is one
    if last is points[0] and points[-1].at_ms > last.at_ms:
        yield points[-1]


def _share(part: float, whole: float) -> float | None:
    # counts of engines begin anew with every engine
    return min(part / whole, 1.0) if whole > 0 and part >= 0 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
