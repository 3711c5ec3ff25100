"""Where a job stands: rates, the part that is done, the time left. Pure: its clock is that of the status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from parquetry.monitor.progress.pace import Pace, cost_ratio
from parquetry.monitor.progress.time_left import time_left
from parquetry.monitor.progress.workload import Workload, finished_rows
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Where a job stands. Rates are None until something was computed, times left until there is evidence."""

    rows: int
    #: rows finished, those inside running shards included
    rows_done: int
    #: of them, rows with an error
    error_rows: int
    #: of the work, by the tokens that are computed; in [0, 1]
    fraction: float
    rows_per_s: float | None
    #: computed, of prompts and outputs together
    tokens_per_s: float | None
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None
    #: seconds until the last row, the most likely, the least and the most of them
    eta_s: float | None
    eta_low_s: float | None
    eta_high_s: float | None
    #: seconds since the job was registered, up to its end
    elapsed_s: float
    #: of these, seconds in which at least one worker computed
    computing_s: float

    @classmethod
    def of(cls, status: JobStatus, history: Sequence[HistoryPoint] = ()) -> JobProgress:
        """Progress at this status. Without its history present rates are known, and the time left more roughly."""
        points = _points(status, history)
        pace = _mean_pace(status) if status.state.is_final else Pace.of(points)
        workload = Workload.of(status, cost_ratio(points), points[-1].requests_running)
        left = time_left(status, points, workload, pace)
        return cls(
            rows=status.rows,
            rows_done=finished_rows(status),
            error_rows=status.error_rows + status.running_error_rows,
            fraction=_fraction(status, workload),
            rows_per_s=_rows_per_s(pace, workload, status),
            tokens_per_s=_rate(pace, "prompt_tokens", "output_tokens"),
            prompt_tokens_per_s=_rate(pace, "prompt_tokens"),
            output_tokens_per_s=_rate(pace, "output_tokens"),
            eta_s=left.likely if left else None,
            eta_low_s=left.low if left else None,
            eta_high_s=left.high if left else None,
            elapsed_s=max(0.0, (status.ended or status.now) - status.created),
            computing_s=status.active_seconds,
        )

    def as_dict(self) -> dict[str, float | int | None]:
        """Plain data for JSON."""
        return asdict(self)


def _points(status: JobStatus, history: Sequence[HistoryPoint]) -> list[HistoryPoint]:
    """The history, or what the status holds of it, up to now."""
    known = history or ([status.earlier] if status.earlier else [])
    return [*known, point_now(status, known[-1] if known else HistoryPoint(0))]


def point_now(status: JobStatus, last: HistoryPoint) -> HistoryPoint:
    """A status as a point of the history; what it does not tell is as at the `last` one."""
    return last._replace(
        at_ms=round(1000 * status.now),
        rows=finished_rows(status),
        computed_prompt_tokens=status.computed_prompt_tokens,
        computed_output_tokens=status.computed_output_tokens,
        reused_rows=status.reused_rows,
        reused_prompt_tokens=status.reused_prompt_tokens,
        reused_output_tokens=status.reused_output_tokens,
        active_ms=round(1000 * status.active_seconds),
        worker_ms=round(1000 * status.worker_seconds),
    )


def _mean_pace(status: JobStatus) -> Pace | None:
    """Of a job that has ended: over all the time in which it was computed, or all it had where that is not known."""
    seconds = status.active_seconds or max(0.0, (status.ended or status.now) - status.created)
    found = Pace(
        active_s=seconds,
        worker_s=status.worker_seconds or seconds,
        rows=finished_rows(status),
        prompt_tokens=status.computed_prompt_tokens,
        output_tokens=status.computed_output_tokens,
    )
    return found if seconds > 0 and found.has_moved else None


def _fraction(status: JobStatus, workload: Workload) -> float:
    if status.state is JobState.DONE or not status.rows:
        return 1.0
    if not workload.is_evident:
        # so few rows tell nothing of the others: as if all of them wrote as much as they may
        most = status.max_output_tokens * status.rows
        written = status.computed_output_tokens / most if most else 0.0
        return min(1.0, max(finished_rows(status) / status.rows, written))
    return min(1.0, workload.done / workload.total) if workload.total else 0.0


def _rate(pace: Pace | None, *names: str) -> float | None:
    return None if pace is None else sum(getattr(pace, name) for name in names) / pace.active_s


def _rows_per_s(pace: Pace | None, workload: Workload, status: JobStatus) -> float | None:
    """Rows finish in bursts and tokens do not, so rows go by their share of the tokens where that is known."""
    if pace is None:
        return None
    tokens = status.computed_prompt_tokens + status.computed_output_tokens
    if status.state.is_final or not tokens or not workload.is_evident:
        return pace.rows / pace.active_s if pace.rows else None
    row_tokens = (status.prompt_tokens + status.output_tokens + status.running_tokens) / max(finished_rows(status), 1)
    return (pace.prompt_tokens + pace.output_tokens) / row_tokens / pace.active_s if row_tokens else None
