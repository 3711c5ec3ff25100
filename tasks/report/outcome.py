"""How a job went, in the numbers a report has: from the queue while that knows it, else from its output alone."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, JobRecord, Manifest
from parquetry.schemas.progress.history import JobHistory
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.progress.status import JobStatus, ShardFailure
from parquetry.schemas.shard import part_name
from parquetry.schemas.storage.storage import Storage


class Outcome(BaseModel):
    """Counts are of committed rows; None where nothing tells any more."""

    model_config = ConfigDict(frozen=True)

    job: str
    state: str
    #: seconds since the Unix epoch
    created: float | None
    ended: float | None
    rows: int
    rows_done: int
    error_rows: int
    shards: int
    shards_done: int
    shards_failed: int
    retries: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    #: time with at least one worker that computed, and its sum over workers
    active_s: float | None = None
    worker_s: float | None = None
    #: of cards that workers kept for the job, and what an hour of one costs
    gpu_s: float | None = None
    price_per_gpu_hour: float | None = None
    #: of committed shards together: from first row to last, and what of it was preparing and writing
    shard_s: float = 0.0
    prepare_s: float = 0.0
    write_s: float = 0.0
    #: error rows by reason
    errors: dict[str, int] = {}
    failures: tuple[ShardFailure, ...] = ()
    prediction: Prediction | None = None

    @property
    def elapsed_s(self) -> float | None:
        """From the submission to the end."""
        return None if self.created is None or self.ended is None else max(0.0, self.ended - self.created)

    @classmethod
    def of_status(cls, status: JobStatus) -> Outcome:
        """As the queue tells it now; a job that still runs ends here."""
        same = (
            "job",
            "created",
            "rows",
            "rows_done",
            "error_rows",
            "shards",
            "shards_done",
            "shards_failed",
            "retries",
            "prediction",
        )
        return cls(
            **{name: getattr(status, name) for name in (*same, "prompt_tokens", "output_tokens", "errors", "failures")},
            state=status.state.value,
            ended=status.ended or status.now,
            active_s=status.active_seconds,
            worker_s=status.worker_seconds,
            gpu_s=status.gpu_seconds or None,
            price_per_gpu_hour=status.price_per_gpu_hour,
            shard_s=status.shard_seconds,
            prepare_s=status.prepare_seconds,
            write_s=status.write_seconds,
        )

    @classmethod
    def of_output(cls, storage: Storage, record: JobRecord, history: JobHistory | None) -> Outcome:
        """As the output tells it, with or without a manifest. Raises StorageError."""
        data = storage.try_read(MANIFEST_FILE)
        manifest = None if data is None else Manifest.model_validate_json(data)
        points = history.read() if history else ()
        last = points[-1] if points else None
        plan = record.shard_plan
        done = _parts_done(storage, record) if manifest is None else list(range(plan.num_shards))
        return cls(
            job=record.job,
            state="done" if storage.head(SUCCESS_FILE) is not None else "not finished",
            created=datetime.fromisoformat(record.created).timestamp(),
            ended=last.at_ms / 1000 if last else None,
            rows=plan.num_rows,
            rows_done=sum(plan.bounds[shard + 1] - plan.bounds[shard] for shard in done),
            error_rows=manifest.error_rows if manifest else last.error_rows if last else 0,
            shards=plan.num_shards,
            shards_done=len(done),
            shards_failed=0,
            prompt_tokens=last.prompt_tokens if last else None,
            output_tokens=last.output_tokens if last else None,
            active_s=last.active_ms / 1000 if last else None,
            worker_s=last.worker_ms / 1000 if last else None,
            gpu_s=last.gpu_ms / 1000 or None if last else None,
            price_per_gpu_hour=record.spec.budget.price_per_gpu_hour if record.spec.budget else None,
            prediction=history.prediction if history else None,
        )


def _parts_done(storage: Storage, record: JobRecord) -> list[int]:
    there = {entry.path for entry in storage.list("part-")}
    return [shard for shard in range(record.shard_plan.num_shards) if part_name(shard) in there]
