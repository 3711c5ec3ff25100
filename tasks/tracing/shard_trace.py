"""The spans of one claimed shard: claim, engine, read, render, tokenize, compute, write, verify, publish, commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from parquetry.schemas.manifest import PartRecord
from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.tracing.spans import SpanIds, provider, start_child, tell_named
from parquetry.workers.shards.clock import Clock, StageClocks

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class ShardTrace:
    """One attempt; every verb does nothing where nobody asks for traces."""

    def __init__(self, claim: Claim, asked_ns: int | None = None) -> None:
        self.clocks = StageClocks()
        self._claim = claim
        self._ids = SpanIds.of(claim.job, claim.shard)
        self._begun_ns = asked_ns or time.time_ns()
        self._attempt: Span | None = None
        if provider() is not None:
            about = {**self._about, "parquetry.attempt": claim.fence, "parquetry.worker": claim.worker}
            self._attempt = start_child("attempt", self._ids.context, self._begun_ns, about)
            self._tell("claim", self._begun_ns, time.time_ns())

    @property
    def _about(self) -> dict[str, Any]:
        return {"parquetry.job": self._claim.job, "parquetry.shard": self._claim.shard}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside is a stage of the attempt."""
        begun_ns = time.time_ns()
        try:
            yield
        finally:
            self._tell(name, begun_ns, time.time_ns())

    def counted(self, part: PartRecord) -> None:
        """Note what was computed."""
        if self._attempt is not None:
            counts = ("rows", "error_rows", "prompt_tokens", "output_tokens")
            self._attempt.set_attributes({f"parquetry.{name}": getattr(part, name) for name in counts})

    def failed(self, error: Exception) -> None:
        """Note why it ended, by its kind alone: the text may hold what is in a row."""
        if self._attempt is not None:
            from opentelemetry.trace import StatusCode

            self._attempt.set_status(StatusCode.ERROR, type(error).__name__)

    def end(self, outcome: str, *, is_committed: bool) -> None:
        """Tell the stages that ran beside each other, the attempt, and with its commit the shard."""
        if self._attempt is None:
            return
        self._tell_clocks()
        end_ns = time.time_ns()
        self._attempt.set_attribute("parquetry.outcome", outcome.lower())
        self._attempt.end(end_ns)
        if is_committed:
            tell_named("shard", self._ids, self._begun_ns, end_ns, self._about, of=SpanIds.of(self._claim.job))

    def _tell_clocks(self) -> None:
        clocks = self.clocks
        tokenizing_ms = clocks.tokenize.ms
        for name, clock, busy_ms in (
            ("read", clocks.read, clocks.read.ms),
            ("render", clocks.prepare, clocks.prepare.ms - tokenizing_ms),
            ("tokenize", clocks.tokenize, tokenizing_ms),
            ("compute", clocks.compute, None),
            ("write", clocks.write, clocks.write.ms),
        ):
            self._tell_clock(name, clock, busy_ms)

    def _tell_clock(self, name: str, clock: Clock, busy_ms: int | None) -> None:
        """From its first time to its last, with how much of that was spent in it."""
        about = {} if busy_ms is None else {"parquetry.busy_ms": busy_ms}
        if clock.first_ns:
            self._tell(name, clock.first_ns, max(clock.first_ns, clock.last_ns), about)

    def _tell(self, name: str, begun_ns: int, ended_ns: int, about: dict[str, Any] | None = None) -> None:
        if self._attempt is not None:
            span = start_child(name, self._attempt.get_span_context(), begun_ns, {**self._about, **(about or {})})
            span.end(ended_ns)
