"""Recorded jobs, played back to the estimates as if they ran now.

A recording is the `_history.json` that a real run left beside its output, with the few facts that a status has besides:
`python -m tests.unit.monitor.progress.replay OUTPUT FILE` makes one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parquetry.monitor.progress.job_progress import JobProgress
from parquetry.schemas.manifest import JOB_FILE
from parquetry.schemas.progress.history import HISTORY_FILE, HistoryPoint, JobHistory
from parquetry.schemas.progress.status import JobStatus
from tests.unit.monitor.made_statuses import job_status

RECORDINGS = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class Moment:
    """A recorded job at one moment, what was said of it then, and what became of it."""

    #: since the first computed token, and of the whole job
    seconds: float
    share: float
    status: JobStatus
    progress: JobProgress
    #: seconds that it did take from here
    left_s: float

    @property
    def error(self) -> float:
        """How far the likely time left is off, as a part of the truth."""
        assert self.progress.eta_s is not None
        return self.progress.eta_s / self.left_s - 1


@dataclass(frozen=True)
class Recording:
    """One job that ran."""

    rows: int
    shards: int
    max_output_tokens: int
    points: tuple[HistoryPoint, ...]

    @classmethod
    def load(cls, name: str) -> Recording:
        found = json.loads((RECORDINGS / f"{name}.json").read_text())
        points = JobHistory(job="j", fields=found["fields"], points=found["points"]).read()
        return cls(found["rows"], found["shards"], found["max_output_tokens"], points)

    def moments(self) -> Iterator[Moment]:
        """Every point but the last, from the first computed token on."""
        end = self.points[-1].at_ms
        begin = next(point.at_ms for point in self.points if point.computed_prompt_tokens)
        for number, point in enumerate(self.points[:-1]):
            if point.at_ms < begin:
                continue
            status = self.status(point)
            yield Moment(
                seconds=(point.at_ms - begin) / 1000,
                share=(point.at_ms - begin) / (end - begin),
                status=status,
                progress=JobProgress.of(status, self.points[: number + 1]),
                left_s=(end - point.at_ms) / 1000,
            )

    def status(self, point: HistoryPoint) -> JobStatus:
        """The status that a reader would have had at a point."""
        done = min(point.rows * self.shards // self.rows, self.shards - point.shards_running)
        # of what was finished, the shards that were whole; a point does not tell them apart
        committed = max((p for p in self.points if p.rows <= done * self.rows / self.shards), key=lambda p: p.rows)
        return job_status(
            now=point.at_ms / 1000,
            created=self.points[0].at_ms / 1000,
            rows=self.rows,
            rows_done=committed.rows,
            running_rows=point.rows - committed.rows,
            running_tokens=_finished(point) - _finished(committed),
            running_output_tokens=point.output_tokens - committed.output_tokens,
            error_rows=point.error_rows,
            shards=self.shards,
            shards_done=done,
            shards_running=point.shards_running,
            shards_pending=self.shards - done - point.shards_running,
            shards_computing=point.shards_computing,
            workers={f"worker-{number}": 1 for number in range(point.workers)},
            prompt_tokens=committed.prompt_tokens,
            output_tokens=committed.output_tokens,
            computed_prompt_tokens=point.computed_prompt_tokens,
            computed_output_tokens=point.computed_output_tokens,
            active_seconds=point.active_ms / 1000,
            worker_seconds=point.worker_ms / 1000,
            max_output_tokens=self.max_output_tokens,
            row_output=point.row_output / 1000,
        )


def _finished(point: HistoryPoint) -> int:
    return point.prompt_tokens + point.output_tokens


def record(output: Path, target: Path) -> None:
    """Make a recording of what a job left in its output folder."""
    history = JobHistory.model_validate_json((output / HISTORY_FILE).read_text())
    job = json.loads((output / JOB_FILE).read_text())
    facts = {
        "rows": job["plan"]["bounds"][-1],
        "shards": len(job["plan"]["bounds"]) - 1,
        "max_output_tokens": job["spec"]["generation"]["max_new_tokens"] if job["spec"]["task"] == "generate" else 0,
        "fields": history.fields,
    }
    points = ",\n".join(map(json.dumps, history.points))
    target.write_text(f'{json.dumps(facts)[:-1]}, "points": [\n{points}\n]}}\n')


if __name__ == "__main__":
    record(Path(sys.argv[1]), Path(sys.argv[2]))
