"""Statuses to show."""

from parquetry.schemas.states import JobState
from parquetry.schemas.status import JobStatus, WorkerStatus


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
