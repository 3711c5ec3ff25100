"""The metrics of jobs, every one labelled with the job's id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from parquetry.monitor.job_view import JobView
from parquetry.schemas.progress.histogram import SHARD_SECONDS
from parquetry.schemas.progress.states import JobPhase, JobState, ShardState
from parquetry.schemas.progress.status import JobStatus

JOB_LABELS = ("job", "task", "model", "queue")

#: (name, help, attribute of JobStatus)
GAUGES = (
    ("parquetry_job_rows", "Input rows of the job", "rows"),
    ("parquetry_job_running_rows", "Rows finished inside running shards", "running_rows"),
    ("parquetry_job_created_seconds", "When the job was registered, seconds since the Unix epoch", "created"),
)
COUNTERS = (
    ("parquetry_job_rows_done", "Committed rows", "rows_done"),
    ("parquetry_job_error_rows", "Committed rows that hold an error", "error_rows"),
    ("parquetry_job_prompt_tokens", "Prompt tokens of committed rows", "prompt_tokens"),
    ("parquetry_job_output_tokens", "Output tokens of committed rows", "output_tokens"),
    ("parquetry_job_retries", "Shard attempts beyond the first", "retries"),
    ("parquetry_job_active_seconds", "Time in which at least one worker computed the job", "active_seconds"),
    ("parquetry_job_worker_seconds", "The same, summed over workers", "worker_seconds"),
    ("parquetry_job_prepare_seconds", "Rendering and tokenizing rows of committed shards", "prepare_seconds"),
    ("parquetry_job_write_seconds", "Writing rows of committed shards", "write_seconds"),
)
#: what falls again when a shard is lost is a gauge: (name, help, attribute of JobStatus)
COMPUTED = tuple(
    (
        f"parquetry_job_computed_{kind}_tokens",
        f"Computed {kind} tokens, of unfinished rows too",
        f"computed_{kind}_tokens",
    )
    for kind in ("prompt", "output")
)
#: (name, help, attribute of JobProgress); left out where nothing is known
PROGRESS = (
    ("parquetry_job_fraction", "Part of the work that is done, 0 to 1", "fraction"),
    ("parquetry_job_rows_per_second", "Rows a second of work, over the last minute", "rows_per_s"),
    ("parquetry_job_prompt_tokens_per_second", "Prompt tokens a second of work", "prompt_tokens_per_s"),
    ("parquetry_job_output_tokens_per_second", "Output tokens a second of work", "output_tokens_per_s"),
    ("parquetry_job_left_low_seconds", "Time left, at least", "eta_low_s"),
    ("parquetry_job_left_high_seconds", "Time left, at most", "eta_high_s"),
)
SHARD_COUNTS = {
    ShardState.PENDING: "shards_pending",
    ShardState.LEASED: "shards_running",
    ShardState.COMMITTED: "shards_done",
    ShardState.FAILED: "shards_failed",
}


def job_metrics(views: Sequence[JobView]) -> Iterator[Metric]:
    """Numbers of every job, then its state, its phase, its shards by state and by how long they took."""
    statuses = [view.status for view in views]
    for name, text, attribute in (*GAUGES, *COMPUTED):
        yield _per_job(GaugeMetricFamily(name, text, labels=JOB_LABELS), statuses, attribute)
    for name, text, attribute in COUNTERS:
        yield _per_job(CounterMetricFamily(name, text, labels=JOB_LABELS), statuses, attribute)
    for name, text, attribute in PROGRESS:
        yield _progress(GaugeMetricFamily(name, text, labels=JOB_LABELS), views, attribute)
    yield _states(statuses)
    yield _phases(views)
    yield _shards(statuses)
    yield _durations(statuses)


def _labels(status: JobStatus) -> list[str]:
    return [str(getattr(status, label)) for label in JOB_LABELS]


def _per_job(
    family: GaugeMetricFamily | CounterMetricFamily, statuses: Sequence[JobStatus], attribute: str
) -> GaugeMetricFamily | CounterMetricFamily:
    for status in statuses:
        family.add_metric(_labels(status), getattr(status, attribute))
    return family


def _progress(family: GaugeMetricFamily, views: Sequence[JobView], attribute: str) -> GaugeMetricFamily:
    for view in views:
        value = getattr(view.progress, attribute)
        # of a job that has ended a rate would stay for ever
        if value is not None and (attribute == "fraction" or view.phase.phase is JobPhase.RUNNING):
            family.add_metric(_labels(view.status), value)
    return family


def _states(statuses: Sequence[JobStatus]) -> Metric:
    family = GaugeMetricFamily("parquetry_job_state", "1 for the state the job is in", labels=(*JOB_LABELS, "state"))
    for status in statuses:
        for state in JobState:
            family.add_metric([*_labels(status), state.value], float(status.state is state))
    return family


def _phases(views: Sequence[JobView]) -> Metric:
    text = "1 for the phase the job is in: what it waits for"
    family = GaugeMetricFamily("parquetry_job_phase", text, labels=(*JOB_LABELS, "phase"))
    for view in views:
        for phase in JobPhase:
            family.add_metric([*_labels(view.status), phase.value], float(view.phase.phase is phase))
    return family


def _shards(statuses: Sequence[JobStatus]) -> Metric:
    family = GaugeMetricFamily("parquetry_job_shards", "Shards of the job by state", labels=(*JOB_LABELS, "state"))
    for status in statuses:
        for state, attribute in SHARD_COUNTS.items():
            family.add_metric([*_labels(status), state.value], getattr(status, attribute))
    return family


def _durations(statuses: Sequence[JobStatus]) -> Metric:
    text = "Committed shards, from the first row read to the last one written"
    family = HistogramMetricFamily("parquetry_job_shard_seconds", text, labels=JOB_LABELS)
    for status in statuses:
        family.add_metric(_labels(status), SHARD_SECONDS.cumulative(status.shard_durations), status.shard_seconds)
    return family
