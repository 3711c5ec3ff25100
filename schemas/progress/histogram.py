"""Histograms with fixed bounds: counted where things happen, added up where they are shown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Bounds:
    """Upper bounds of buckets in seconds, ascending; one more bucket holds what is above the last."""

    seconds: tuple[float, ...]

    def place(self, seconds: float) -> int:
        """The number of the bucket that a duration belongs to."""
        return bisect_left(self.seconds, seconds)

    def cumulative(self, counts: Sequence[int]) -> list[tuple[str, float]]:
        """Upper bound and how many are at most that, bucket by bucket, as Prometheus has it; the last is +Inf."""
        bounds = [*(f"{bound:g}" for bound in self.seconds), "+Inf"]
        return list(zip(bounds, accumulate(map(float, counts)), strict=True))

    @property
    def num_buckets(self) -> int:
        """The one above the last bound included."""
        return len(self.seconds) + 1


#: of shards, from the first row read to the last one written
SHARD_SECONDS = Bounds((1, 2, 5, 10, 20, 40, 60, 120, 180, 300, 600, 1200, 3600))
#: of steps of an engine
STEP_SECONDS = Bounds((0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
