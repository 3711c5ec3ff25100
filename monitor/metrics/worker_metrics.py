"""The metrics of workers: what they serve, what their engines have counted, what their devices do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from parquetry.schemas.progress.histogram import STEP_SECONDS
from parquetry.schemas.progress.states import EnginePhase
from parquetry.schemas.progress.status import DeviceUse, EngineStats, WorkerStatus

WORKER_LABELS = ("worker", "host", "device", "queue")
GAUGES = (
    ("parquetry_worker_shards_in_flight", "Shards the worker may run at once", "shards_in_flight"),
    ("parquetry_worker_seen_seconds", "Last sign of life, seconds since the Unix epoch", "seen"),
)
#: (name, help, attribute of EngineStats); all begin anew with another engine
ENGINE_COUNTERS = (
    ("parquetry_engine_computed_tokens", "Positions computed for rows", "computed_tokens"),
    ("parquetry_engine_decode_tokens", "Of them, new tokens of outputs", "decode_tokens"),
    ("parquetry_engine_padding_tokens", "Positions computed for no row", "padding_tokens"),
    ("parquetry_engine_prompt_tokens", "Prompt tokens of answered requests", "prompt_tokens"),
    ("parquetry_engine_output_tokens", "Output tokens of answered requests", "output_tokens"),
    ("parquetry_engine_cached_tokens", "Prompt tokens that a cached prefix saved", "cached_tokens"),
    ("parquetry_engine_preemptions", "Sequences that gave their cache blocks away", "preemptions"),
    ("parquetry_engine_out_of_memory", "Times the device ran out of memory", "out_of_memory"),
    ("parquetry_engine_busy_seconds", "Time spent in steps", "busy_seconds"),
)
ENGINE_GAUGES = (
    ("parquetry_engine_running_requests", "Requests being computed", "running"),
    ("parquetry_engine_waiting_requests", "Requests held and not begun", "waiting"),
    ("parquetry_engine_kv_use", "KV cache blocks in use, 0 to 1", "kv_use"),
)
DEVICE_GAUGES = (
    ("parquetry_device_use", "Share of the last second in which a kernel ran, 0 to 1", "use"),
    ("parquetry_device_memory_used_bytes", "Memory in use on the worker's devices", "memory_used_bytes"),
    ("parquetry_device_memory_total_bytes", "Memory of the worker's devices", "memory_total_bytes"),
)


def worker_metrics(workers: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """Every number of every live worker."""
    for name, text, attribute in GAUGES:
        yield _family(GaugeMetricFamily(name, text, labels=WORKER_LABELS), workers, _itself, attribute)
    for name, text, attribute in ENGINE_COUNTERS:
        yield _family(CounterMetricFamily(name, text, labels=WORKER_LABELS), workers, _engine, attribute)
    for name, text, attribute in ENGINE_GAUGES:
        yield _family(GaugeMetricFamily(name, text, labels=WORKER_LABELS), workers, _engine, attribute)
    for name, text, attribute in DEVICE_GAUGES:
        yield _family(GaugeMetricFamily(name, text, labels=WORKER_LABELS), workers, _device, attribute)
    yield _phases(workers)
    yield _steps(workers)


def _itself(worker: WorkerStatus) -> WorkerStatus:
    return worker


def _engine(worker: WorkerStatus) -> EngineStats | None:
    return worker.engine


def _device(worker: WorkerStatus) -> DeviceUse | None:
    return worker.device_use


def _labels(worker: WorkerStatus) -> list[str]:
    return [str(getattr(worker, label)) for label in WORKER_LABELS]


def _family(
    family: GaugeMetricFamily | CounterMetricFamily,
    workers: Sequence[WorkerStatus],
    source: Callable[[WorkerStatus], object],
    attribute: str,
) -> Metric:
    for worker in workers:
        if (value := getattr(source(worker), attribute, None)) is not None:
            family.add_metric(_labels(worker), value)
    return family


def _phases(workers: Sequence[WorkerStatus]) -> Metric:
    text = "1 for what the worker's engine is doing"
    family = GaugeMetricFamily("parquetry_engine_phase", text, labels=(*WORKER_LABELS, "phase"))
    for worker in workers:
        for phase in EnginePhase:
            family.add_metric([*_labels(worker), phase.value], float(worker.state.phase is phase))
    return family


def _steps(workers: Sequence[WorkerStatus]) -> Metric:
    family = HistogramMetricFamily("parquetry_engine_step_seconds", "Steps of the engine", labels=WORKER_LABELS)
    for worker in workers:
        if worker.engine is not None and len(worker.engine.step_durations) == STEP_SECONDS.num_buckets:
            buckets = STEP_SECONDS.cumulative(worker.engine.step_durations)
            family.add_metric(_labels(worker), buckets, worker.engine.busy_seconds)
    return family
