"""Traces of a job that real workers run, as a collector gets them over HTTP: spans, links, and nothing of a row."""

from __future__ import annotations

import logging
from collections import defaultdict

import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.tracing import spans
from parquetry.tasks.tracing.shard_trace import ShardTrace
from parquetry.tasks.tracing.spans import SpanIds, are_wanted, flush, provider
from tests.chaos.process import wait_until
from tests.integration.jobs_on_disk import make_job
from tests.integration.receiver import Receiver, receiving

STAGES = {"claim", "engine", "read", "render", "tokenize", "compute", "write", "verify", "publish", "commit"}
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


def told(receiver: Receiver) -> list:
    """Every span that has come."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    requests = [ExportTraceServiceRequest.FromString(body) for _, body in list(receiver.got)]
    scopes = [scope for request in requests for found in request.resource_spans for scope in found.scope_spans]
    return [span for scope in scopes for span in scope.spans]


def attributes(span) -> dict[str, object]:
    return {
        pair.key: pair.value.int_value if pair.value.HasField("int_value") else pair.value.string_value
        for pair in span.attributes
    }


@pytest.fixture
def collector():
    with receiving() as receiver:
        receiver.answers = [200] * 1000
        yield receiver


def test_every_stage_of_every_shard_is_told_and_linked(tmp_path, server, ledger: Ledger, start_worker, collector):
    job = make_job(tmp_path, ledger, rows=30, rows_per_shard=10, spells={4: "s3cr3t-of-a-row"})
    start_worker(server.url, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}&y=2", OTEL_BSP_SCHEDULE_DELAY="200")
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 60, "the job to be done")
    wait_until(lambda: {"job", "shard"} <= {span.name for span in told(collector)}, 60, "the last spans")
    wait_until(lambda: [span.name for span in told(collector)].count("shard") == 3, 60, "every shard's span")

    by_name = defaultdict(list)
    for span in told(collector):
        by_name[span.name].append(span)
    assert set(by_name) == {"job", "shard", "attempt", *STAGES}
    (whole,) = by_name["job"]
    assert attributes(whole)["parquetry.rows"] == 30 and attributes(whole)["parquetry.state"] == "done"
    assert int.from_bytes(whole.trace_id) == SpanIds.of(job.name).trace
    for shard in by_name["shard"]:
        (link,) = shard.links
        assert (link.trace_id, link.span_id) == (whole.trace_id, whole.span_id)
    assert {attributes(shard)["parquetry.shard"] for shard in by_name["shard"]} == {0, 1, 2}
    attempts = {attempt.span_id: attempt for attempt in by_name["attempt"]}
    assert {attempt.parent_span_id for attempt in attempts.values()} == {shard.span_id for shard in by_name["shard"]}
    for attempt in attempts.values():
        assert attributes(attempt)["parquetry.rows"] == 10
        assert attributes(attempt)["parquetry.outcome"] in ("committed", "last")
        stages = [span for name in STAGES for span in by_name[name] if span.parent_span_id == attempt.span_id]
        assert {span.name for span in stages} == STAGES
        for span in stages:
            assert attempt.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= attempt.end_time_unix_nano
    # prompts, outputs and cells stay where they are
    assert not any(b"s3cr3t" in body or b"text" in body.lower() for _, body in collector.got)


@pytest.fixture
def fresh():
    provider.cache_clear()
    yield
    provider.cache_clear()


def test_a_collector_that_is_away_costs_its_spans_alone(fresh, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setattr(spans, "FLUSH_MS", 100)
    trace = ShardTrace(Claim(job="j", shard=0, fence=1, worker="w", output="/o"))
    with pytest.raises(KeyError), trace.stage("commit"):
        raise KeyError("x")
    trace.failed(KeyError("what is in a row"))
    trace.end("released", is_committed=False)
    flush()
    provider().shutdown()


def test_nobody_is_told_where_nobody_asks(fresh, monkeypatch):
    for name in (*spans.WANTED_BY, "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert not are_wanted() and provider() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert are_wanted()
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not are_wanted()


def test_a_missing_package_and_a_wrong_setting_are_warnings(fresh, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(spans, "is_installed", lambda _: False)
        assert provider() is None
    assert "pip install 'parquetry[otel]'" in caplog.text
    provider.cache_clear()

    def fails() -> None:
        raise ValueError("no such protocol")

    monkeypatch.setattr(spans, "_made", fails)
    assert provider() is None and "no such protocol" in caplog.text
