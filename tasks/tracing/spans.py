"""Spans of jobs, shards and attempts for OpenTelemetry: where the time of a shard goes, told to whatever OTEL_* names.

A job, a shard and its attempts have ids that follow from their names, so processes that never meet link to each other:
an attempt is a child of its shard's span, and the shard links to its job. Spans hold ids, counts and kinds of errors,
never what is in a row.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from parquetry.workers.packages import is_installed

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

log = logging.getLogger(__name__)
#: any of these asks for traces
WANTED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
#: how long the end of a process waits for its last spans
FLUSH_MS = 3000


class SpanIds(NamedTuple):
    """Of one job or shard."""

    trace: int
    span: int

    @classmethod
    def of(cls, job: str, shard: int | None = None) -> SpanIds:
        """The same in every process."""
        digest = hashlib.sha256(f"{job}/{'' if shard is None else shard}".encode()).digest()
        return cls(int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1)

    @property
    def context(self) -> SpanContext:
        """To be a child of it, or to link to it."""
        from opentelemetry.trace import SpanContext, TraceFlags

        return SpanContext(self.trace, self.span, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def are_wanted() -> bool:
    """Whether the environment asks for traces."""
    is_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    is_none = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    return not is_off and not is_none and any(os.environ.get(name) for name in WANTED_BY)


@lru_cache(maxsize=1)
def provider() -> TracerProvider | None:
    """What makes and sends spans in this process; None where nobody asks for any.

    Made where it is used first: a thread that sends does not outlive a fork.
    """
    if not are_wanted():
        return None
    if not is_installed("opentelemetry"):
        log.warning("OTEL_* asks for traces, and the package for them is missing: pip install 'parquetry[otel]'")
        return None
    try:
        return _made()
    # another package reads the operator's variables; whatever is wrong with them costs traces and nothing else
    except Exception as error:  # noqa: BLE001
        log.warning("no traces: OTEL_* does not make an exporter: %s: %s", type(error).__name__, error)
        return None


def _made() -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "console":
        exporter = ConsoleSpanExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    name = os.environ.get("OTEL_SERVICE_NAME") or "parquetry"
    made = TracerProvider(resource=Resource.create({"service.name": name}), id_generator=_id_generator())
    made.add_span_processor(BatchSpanProcessor(exporter))
    return made


#: ids that the next span of a thread takes
_next = threading.local()


def _id_generator() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Named(RandomIdGenerator):
        """Random ids, but for a span that is given its own."""

        def generate_trace_id(self) -> int:
            ids = getattr(_next, "ids", None)
            return ids.trace if ids else super().generate_trace_id()

        def generate_span_id(self) -> int:
            ids = getattr(_next, "ids", None)
            return ids.span if ids else super().generate_span_id()

    return Named()


@contextmanager
def _given(ids: SpanIds) -> Iterator[None]:
    _next.ids = ids
    try:
        yield
    finally:
        _next.ids = None


def tell_named(
    name: str, ids: SpanIds, start_ns: int, end_ns: int, about: dict[str, Any], *, of: SpanIds | None = None
) -> None:
    """A finished span with ids of its own, which links to the one that it is `of`."""
    # before the imports: the package is there only where somebody asks for traces
    if (made := provider()) is None:
        return
    from opentelemetry.context import Context
    from opentelemetry.trace import Link

    links = [Link(of.context)] if of is not None else []
    with _given(ids):
        span = made.get_tracer("parquetry").start_span(
            name, context=Context(), links=links, attributes=about, start_time=start_ns
        )
    span.end(end_ns)


def start_child(name: str, of: SpanContext, start_ns: int, about: dict[str, Any]) -> Span:
    """A span below another one, perhaps of another process; only where `provider` is."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    made = provider()
    assert made is not None, "whoever starts spans has asked for them"
    parent = set_span_in_context(NonRecordingSpan(of), Context())
    return made.get_tracer("parquetry").start_span(name, context=parent, attributes=about, start_time=start_ns)


def flush() -> None:
    """Send what waits, before this process ends."""
    if provider.cache_info().currsize and (made := provider()) is not None:
        made.force_flush(FLUSH_MS)
