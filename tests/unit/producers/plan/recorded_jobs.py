"""Jobs that really ran, the first rows of each before all of them: what a plan would have said, and what came of it.

`python -m tests.unit.producers.plan.recorded_jobs FIRST WHOLE FILE` makes a recording of two output folders: of the
first rows run as a job of their own, as `plan --rows` does, and of the whole job.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from parquetry.output import read_output
from parquetry.producers.plan.duration import MeasuredRows, Whole, predict
from parquetry.schemas.manifest import JOB_FILE
from parquetry.schemas.progress.history import HISTORY_FILE, HistoryPoint, JobHistory
from parquetry.schemas.progress.prediction import Prediction

RECORDINGS = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class RecordedJob:
    """One job, and its first rows."""

    name: str
    measured: MeasuredRows
    whole: Whole
    #: that it took, on one device, and its output tokens
    seconds: float
    output_tokens: int

    @classmethod
    def load(cls, file: Path) -> RecordedJob:
        found = json.loads(file.read_text())
        points = JobHistory(job="j", fields=found["fields"], points=found["points"]).read()
        seconds = points[-1].active_ms / 1000
        measured = MeasuredRows(len(found["lengths"]), seconds, found["lengths"], points)
        return cls(file.stem, measured, Whole(**found["whole"]), found["seconds"], found["output_tokens"])

    @property
    def prediction(self) -> Prediction:
        return predict(self.measured, self.whole)

    @property
    def error(self) -> float:
        """How far the likely time is off, as a part of the truth."""
        return self.prediction.seconds[1] / self.seconds - 1

    @property
    def is_held(self) -> bool:
        """Whether the truth is in the range."""
        return self.prediction.seconds[0] <= self.seconds <= self.prediction.seconds[2]


def recorded_jobs() -> list[RecordedJob]:
    """All of them."""
    return [RecordedJob.load(file) for file in sorted(RECORDINGS.glob("*.json"))]


def record(first: Path, whole: Path, target: Path) -> None:
    """Make a recording."""
    rows, bounds = read_output(str(whole)), json.loads((whole / JOB_FILE).read_text())["plan"]["bounds"]
    facts = {
        "seconds": _points(whole)[-1].active_ms / 1000,
        "output_tokens": sum(rows["output_tokens"].to_pylist()),
        "whole": {
            "rows": rows.num_rows,
            "prompt_tokens": sum(rows["prompt_tokens"].to_pylist()),
            "rows_per_shard": max(stop - start for start, stop in pairwise(bounds)),
        },
        "lengths": read_output(str(first))["output_tokens"].to_pylist(),
        "fields": HistoryPoint._fields,
        "points": _points(first),
    }
    target.write_text(json.dumps(facts) + "\n")


def _points(output: Path) -> tuple[HistoryPoint, ...]:
    return JobHistory.model_validate_json((output / HISTORY_FILE).read_text()).read()


if __name__ == "__main__":
    record(*map(Path, sys.argv[1:]))
