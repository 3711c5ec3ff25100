"""How long a job still takes, as a range: what is left at the present pace, and the tail in which batches thin out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from parquetry.monitor.progress.pace import STALL_S, Pace, cost_ratio, idle_s
from parquetry.monitor.progress.workload import Workload, finished_rows, spread_of_outputs
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus

#: seconds of work before a rate says anything of the time left
ENOUGH_S = 3.0
#: what stays unsure of the time left however long a job has been watched, and at most
LEAST_SPREAD = 0.1
MOST_SPREAD = 0.6


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last row: at least, most likely, at most."""

    low: float
    likely: float
    high: float


def time_left(
    status: JobStatus, points: Sequence[HistoryPoint], workload: Workload, pace: Pace | None
) -> TimeLeft | None:
    """None until there is evidence, and while nobody computes. `points` end with the present one."""
    num_workers = _num_workers(status)
    is_measured = status.active_seconds >= ENOUGH_S and workload.is_evident
    if status.state is not JobState.RUNNING or not num_workers or pace is None or not is_measured:
        return None
    speed = _speed(points, workload, pace)
    if speed <= 0:
        return None
    smooth = workload.left / speed / num_workers
    thin = (
        smooth + _thinning_s(status, points[-1], workload, pace) + _last_shards_s(status, workload, speed, num_workers)
    )
    # a step under way has done some of it already
    waited = idle_s(points) if idle_s(points) < STALL_S else 0.0
    spread = _spread(workload)
    likely = max(0.0, (smooth + thin) / 2 - waited)
    return TimeLeft(max(0.0, smooth * (1 - spread) - waited), likely, max(likely, thin * (1 + spread) - waited))


def _num_workers(status: JobStatus) -> int:
    """Workers that will share what is left: each needs a shard."""
    left = status.shards_running + status.shards_pending
    return min(len(status.workers), left) if status.shards_computing else 0


def _speed(points: Sequence[HistoryPoint], workload: Workload, pace: Pace) -> float:
    """Work that one worker does in a second."""
    if not workload.row_output and not pace.prompt_tokens:
        return pace.rows / pace.worker_s
    return (cost_ratio(points) * pace.prompt_tokens + pace.output_tokens) / pace.worker_s


def _spread(workload: Workload) -> float:
    """How far the estimate may be off: rows differ, and the mean of a few tells little of the others."""
    return min(MOST_SPREAD, math.hypot(LEAST_SPREAD, 0.7 / math.sqrt(max(workload.rows_seen, 1))))


def _thinning_s(status: JobStatus, last: HistoryPoint, workload: Workload, pace: Pace) -> float:
    """Seconds that the last rows take beyond their share, where a step of few rows takes as long as one of many.

    A row in a full batch has so many tokens left as renewal theory says, and the last of several is later than their
    mean by the harmonic number where lengths have no memory; where all rows are of one length it is not.
    """
    unfinished = status.rows - finished_rows(status)
    running = min(last.requests_running, unfinished)
    if not running or not pace.output_tokens or not workload.row_output:
        return 0.0
    row_s = running * pace.active_s / pace.output_tokens
    variance = spread_of_outputs(workload.row_output, status)
    harmonic = math.log(running) + 0.58
    if unfinished <= last.requests_running:
        mean = workload.left / unfinished
        return mean * max(0.0, variance * (harmonic - 1)) * row_s
    mean = workload.row_output * (1 + variance) / 2
    latest = mean * max(1.0, 2 + variance * (harmonic - 2))
    return max(0.0, latest - mean) * row_s


def _last_shards_s(status: JobStatus, workload: Workload, speed: float, num_workers: int) -> float:
    """Seconds beyond an even end, at most: the last shard may begin when all other workers are through."""
    shard_s = workload.total / max(status.shards, 1) / speed
    return shard_s * (1 - 1 / num_workers)
