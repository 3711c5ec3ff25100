"""Rates and the time left, from a job's statuses over time. Pure: it looks at no clock but the statuses' own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus

#: seconds after which a status weighs 1/e of a fresh one
SMOOTHING_SECONDS = 20.0
#: statuses older than this are forgotten
HISTORY_SECONDS = 120.0
#: rows are told by beats, so an unchanged count means nothing before this many seconds
STALL_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Where a job stands. Rates are None until two statuses show movement."""

    rows: int
    #: rows finished, those inside running shards included
    rows_done: int
    error_rows: int
    rows_per_s: float | None
    #: prompt and output tokens together
    tokens_per_s: float | None
    #: seconds until the last row at the present rate
    eta_s: float | None
    #: seconds since the job was registered, up to its end
    elapsed_s: float

    @property
    def fraction(self) -> float:
        """Finished part of the job, in [0, 1]."""
        return self.rows_done / self.rows if self.rows else 1.0

    @classmethod
    def of(cls, statuses: Sequence[JobStatus]) -> JobProgress:
        """Progress at the last of `statuses`: at least one, all of one job, in time order."""
        last = statuses[-1]
        rate = _mean_rate(last) if last.state.is_final else smoothed_rate(statuses)
        return cls(
            rows=last.rows,
            rows_done=finished_rows(last),
            error_rows=last.error_rows,
            rows_per_s=rate,
            tokens_per_s=_tokens_per_s(last, rate),
            eta_s=_eta(last, rate),
            elapsed_s=max(0.0, (last.ended or last.now) - last.created),
        )

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain data for JSON."""
        return {**asdict(self), "fraction": self.fraction}


class History:
    """The recent statuses of one job."""

    def __init__(self, span_s: float = HISTORY_SECONDS) -> None:
        self._statuses: deque[JobStatus] = deque()
        self._span_s = span_s

    def add(self, status: JobStatus) -> JobProgress:
        """Take a status and return the progress it makes."""
        self._statuses.append(status)
        while status.now - self._statuses[0].now > self._span_s:
            self._statuses.popleft()
        return JobProgress.of(list(self._statuses))


def finished_rows(status: JobStatus) -> int:
    """Committed rows and those finished inside running shards."""
    return min(status.rows, status.rows_done + status.running_rows)


def smoothed_rate(statuses: Sequence[JobStatus]) -> float | None:
    """Rows per second, every interval between statuses weighted by its length and by how recent it is.

    Rows a lost shard takes back count as negative, so that doing them again is not counted twice. The wait for the
    next beat does not count, or the rate would fall until it comes.
    """
    rows = seconds = 0.0
    moving = _until_last_change(statuses)
    now = moving[-1].now
    for earlier, later in pairwise(moving):
        weight = math.exp((later.now - now) / SMOOTHING_SECONDS)
        rows += weight * (finished_rows(later) - finished_rows(earlier))
        seconds += weight * (later.now - earlier.now)
    return rows / seconds if rows > 0 and seconds > 0 else None


def _until_last_change(statuses: Sequence[JobStatus]) -> Sequence[JobStatus]:
    """The statuses without those at the end that only repeat a count, unless that has lasted too long for a wait."""
    end = len(statuses)
    while end > 1 and finished_rows(statuses[end - 1]) == finished_rows(statuses[end - 2]):
        end -= 1
    return statuses[:end] if statuses[-1].now - statuses[end - 1].now < STALL_SECONDS else statuses


def _mean_rate(status: JobStatus) -> float | None:
    seconds = (status.ended or status.now) - status.created
    return finished_rows(status) / seconds if seconds > 0 and status.rows_done else None


def _tokens_per_s(status: JobStatus, rows_per_s: float | None) -> float | None:
    # rows carry the tokens: their rate is smoothed already
    rows = finished_rows(status)
    if rows_per_s is None or not rows:
        return None
    return rows_per_s * (status.prompt_tokens + status.output_tokens + status.running_tokens) / rows


def _eta(status: JobStatus, rows_per_s: float | None) -> float | None:
    if status.state is not JobState.RUNNING or rows_per_s is None:
        return None
    return (status.rows - finished_rows(status)) / rows_per_s
