"""Prometheus text from what the ledger says at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from parquetry.monitor.job_view import JobView
from parquetry.monitor.metrics.job_metrics import job_metrics
from parquetry.monitor.metrics.worker_metrics import worker_metrics
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus, WorkerStatus


class _Snapshot(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def render(
    jobs: Iterable[JobStatus], workers: Sequence[WorkerStatus], states: Mapping[JobState, int] | None = None
) -> bytes:
    """The exposition text of jobs, of how many are in which state, and of live workers."""
    views = [JobView.of(status, workers) for status in jobs]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot([*job_metrics(views), _counts(states or {}), *worker_metrics(workers)]))
    return generate_latest(registry)


def _counts(states: Mapping[JobState, int]) -> Metric:
    family = GaugeMetricFamily("parquetry_jobs", "Jobs that the queue knows, by state", labels=("state",))
    for state, jobs in states.items():
        family.add_metric([state.value], jobs)
    return family
