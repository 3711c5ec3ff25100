"""The span of a whole job, told by whoever ends it."""

from __future__ import annotations

from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.tasks.tracing.spans import SpanIds, tell_named


def trace_job(status: JobStatus, state: JobState) -> None:
    """From its registration until now; nothing where nobody asks for traces."""
    about = {
        "parquetry.job": status.job,
        "parquetry.task": status.task,
        "parquetry.state": state.value,
        "parquetry.shards": status.shards,
        "parquetry.rows": status.rows_done,
        "parquetry.error_rows": status.error_rows,
        "parquetry.retries": status.retries,
    }
    tell_named("job", SpanIds.of(status.job), _ns(status.created), _ns(status.now), about)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
