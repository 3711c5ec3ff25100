"""Prometheus text from what the ledger says at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from parquetry.schemas.states import JobState, ShardState
from parquetry.schemas.status import JobStatus, WorkerStatus

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
)
SHARD_COUNTS = {
    ShardState.PENDING: "shards_pending",
    ShardState.LEASED: "shards_running",
    ShardState.COMMITTED: "shards_done",
    ShardState.FAILED: "shards_failed",
}


class _Snapshot(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def render(jobs: Iterable[JobStatus], workers: Iterable[WorkerStatus]) -> bytes:
    """The exposition text of all jobs and live workers."""
    jobs = list(jobs)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot([*job_metrics(jobs), *worker_metrics(workers)]))
    return generate_latest(registry)


def job_metrics(jobs: list[JobStatus]) -> Iterator[Metric]:
    """Numbers of every job, then its state and its shards by state."""
    for name, text, attribute in GAUGES:
        yield _per_job(GaugeMetricFamily(name, text, labels=JOB_LABELS), jobs, attribute)
    for name, text, attribute in COUNTERS:
        yield _per_job(CounterMetricFamily(name, text, labels=JOB_LABELS), jobs, attribute)
    yield _states(jobs)
    yield _shards(jobs)


def worker_metrics(workers: Iterable[WorkerStatus]) -> Iterator[Metric]:
    """Shards in flight and last sign of life of every worker."""
    labels = ("worker", "host", "device", "queue")
    in_flight = GaugeMetricFamily(
        "parquetry_worker_shards_in_flight", "Shards the worker may run at once", labels=labels
    )
    seen = GaugeMetricFamily(
        "parquetry_worker_seen_seconds", "Last sign of life, seconds since the Unix epoch", labels=labels
    )
    for worker in workers:
        values = [getattr(worker, label) for label in labels]
        in_flight.add_metric(values, worker.shards_in_flight)
        seen.add_metric(values, worker.seen)
    yield from (in_flight, seen)


def _labels(job: JobStatus) -> list[str]:
    return [str(getattr(job, label)) for label in JOB_LABELS]


def _per_job(
    family: GaugeMetricFamily | CounterMetricFamily, jobs: Iterable[JobStatus], attribute: str
) -> GaugeMetricFamily | CounterMetricFamily:
    for job in jobs:
        family.add_metric(_labels(job), getattr(job, attribute))
    return family


def _states(jobs: Iterable[JobStatus]) -> Metric:
    family = GaugeMetricFamily("parquetry_job_state", "1 for the state the job is in", labels=(*JOB_LABELS, "state"))
    for job in jobs:
        for state in JobState:
            family.add_metric([*_labels(job), state.value], float(job.state is state))
    return family


def _shards(jobs: Iterable[JobStatus]) -> Metric:
    family = GaugeMetricFamily("parquetry_job_shards", "Shards of the job by state", labels=(*JOB_LABELS, "state"))
    for job in jobs:
        for state, attribute in SHARD_COUNTS.items():
            family.add_metric([*_labels(job), state.value], getattr(job, attribute))
    return family
