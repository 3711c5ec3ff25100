"""Prometheus text from what the ledger says at the moment of the scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from parquetry.monitor.job_view import JobView
from parquetry.monitor.metrics.job_metrics import job_metrics
from parquetry.monitor.metrics.worker_metrics import worker_metrics
from parquetry.schemas.progress.status import JobStatus, WorkerStatus


class _Snapshot(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def render(jobs: Iterable[JobStatus], workers: Sequence[WorkerStatus]) -> bytes:
    """The exposition text of all jobs and live workers."""
    views = [JobView.of(status, workers) for status in jobs]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot([*job_metrics(views), *worker_metrics(workers)]))
    return generate_latest(registry)
