"""Statuses to show."""

from parquetry.schemas.progress.histogram import STEP_SECONDS
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import EnginePhase, JobState
from parquetry.schemas.progress.status import DeviceUse, EngineState, EngineStats, JobStatus, WorkerStatus


def job_status(**changes) -> JobStatus:
    """A running job of 1000 rows in 10 shards, 400 rows done."""
    fields = {
        "job": "generate-0123456789ab",
        "state": JobState.RUNNING,
        "task": "generate",
        "model": "some/model",
        "output": "/data/out",
        "queue": "default",
        "priority": 5,
        "created": 1000.0,
        "now": 1100.0,
        "shards": 10,
        "shards_pending": 4,
        "shards_running": 2,
        "shards_done": 4,
        "shards_failed": 0,
        "rows": 1000,
        "rows_done": 400,
        "error_rows": 3,
        "prompt_tokens": 4000,
        "output_tokens": 8000,
    }
    return JobStatus(**{**fields, **changes})


def worker_status(**changes) -> WorkerStatus:
    """A live worker on the CPU."""
    fields = {"worker": "w1", "host": "h", "device": "cpu", "queue": "default", "shards_in_flight": 2, "seen": 1099.0}
    return WorkerStatus(**{**fields, **changes})


def busy_job(**changes) -> JobStatus:
    """A job of which everything is known: a worker has computed it for a minute."""
    before = HistoryPoint(1_070_000, rows=100, computed_prompt_tokens=1000, computed_output_tokens=2000)
    known = {
        "workers": {"w1": 2},
        "shards_computing": 2,
        "computed_prompt_tokens": 4300,
        "computed_output_tokens": 8600,
        "active_seconds": 30.0,
        "worker_seconds": 30.0,
        "earlier": before,
    }
    return job_status(**{**known, **changes})


def busy_worker(**changes) -> WorkerStatus:
    """A worker on a card that has counted everything there is to count."""
    engine = EngineStats(
        seconds=10, busy_seconds=9, computed_tokens=500, decode_tokens=200, padding_tokens=50, running=7, kv_use=0.25,
        steps=4, step_durations=(0, 4, *(0,) * (STEP_SECONDS.num_buckets - 2)),
    )  # fmt: skip
    use = DeviceUse(name="NVIDIA H100", use=0.97, memory_used_bytes=1 << 30, memory_total_bytes=2 << 30)
    state = EngineState(phase=EnginePhase.READY, model="/models/tiny")
    return worker_status(**{"engine": engine, "state": state, "device_use": use, **changes})
