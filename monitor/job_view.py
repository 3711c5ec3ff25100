"""One job as every reader sees it: its numbers, its phase and its progress, the same in a terminal, a page and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parquetry.monitor.progress.engine_view import EngineView, engine_view
from parquetry.monitor.progress.job_phase import PhaseNow, job_phase
from parquetry.monitor.progress.job_progress import JobProgress
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.status import JobStatus, WorkerStatus


@dataclass(frozen=True, kw_only=True)
class JobView:
    """What there is to show of a job at one moment."""

    status: JobStatus
    phase: PhaseNow
    progress: JobProgress
    #: the living workers that hold shards of it, as they are and what their engines do
    workers: tuple[WorkerStatus, ...]
    engines: tuple[EngineView | None, ...]

    @classmethod
    def of(cls, status: JobStatus, workers: Sequence[WorkerStatus], history: Sequence[HistoryPoint] = ()) -> JobView:
        """`workers` are all that live; without the `history` the time left is known more roughly."""
        holders = tuple(worker for worker in workers if worker.worker in status.workers)
        return cls(
            status=status,
            phase=job_phase(status, workers),
            progress=JobProgress.of(status, history),
            workers=holders,
            engines=tuple(engine_view(worker) for worker in holders),
        )

    @property
    def engine(self) -> EngineView | None:
        """All engines that compute the job, as one."""
        return EngineView.of_all(view for view in self.engines if view is not None)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` and the page's API show of a job."""
        return {
            **self.status.model_dump(mode="json"),
            "phase": self.phase.as_dict(),
            "progress": self.progress.as_dict(),
            "engine": self.engine.as_dict() if self.engine else None,
        }


def worker_as_dict(worker: WorkerStatus) -> dict[str, Any]:
    """What `--json` and the page's API show of a worker."""
    view = engine_view(worker)
    return {**worker.model_dump(mode="json"), "engine_view": view.as_dict() if view else None}
