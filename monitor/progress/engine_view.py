"""What engines do with their time: rates, padding, cache, steps; of one worker or of all that compute a job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from parquetry.schemas.progress.status import EngineStats, WorkerStatus


@dataclass(frozen=True, kw_only=True)
class EngineView:
    """Over a stretch of an engine's time; shares are 0 to 1, None where nothing was counted."""

    prompt_tokens_per_s: float
    output_tokens_per_s: float
    #: positions computed for no row, of all that were computed
    padding_share: float | None
    #: prompt tokens that a cached prefix saved
    cached_share: float | None
    #: time that the engine was not waiting for rows
    busy_share: float | None
    #: seconds a step takes
    step_s: float | None
    #: held now
    running: int
    waiting: int
    kv_use: float | None
    preemptions: int
    out_of_memory: int

    @classmethod
    def of(cls, now: EngineStats, before: EngineStats | None = None) -> EngineView | None:
        """Since `before`, of the same engine; else since it was ready. None before it has worked."""
        if before is None or before.seconds >= now.seconds:
            before = EngineStats()
        seconds, busy = now.seconds - before.seconds, now.busy_seconds - before.busy_seconds
        if seconds <= 0:
            return None
        output = now.written_tokens - before.written_tokens
        computed = now.computed_tokens - before.computed_tokens
        padding = now.padding_tokens - before.padding_tokens
        cached = now.cached_tokens - before.cached_tokens
        prompt = max(computed - output, 0) + cached
        steps = now.steps - before.steps
        return cls(
            prompt_tokens_per_s=prompt / seconds,
            output_tokens_per_s=output / seconds,
            padding_share=padding / (padding + computed) if padding + computed > 0 else None,
            cached_share=min(cached / prompt, 1.0) if prompt > 0 else None,
            busy_share=min(busy / seconds, 1.0),
            step_s=busy / steps if steps > 0 else None,
            running=now.running,
            waiting=now.waiting,
            kv_use=now.kv_use,
            preemptions=now.preemptions,
            out_of_memory=now.out_of_memory,
        )

    @classmethod
    def of_all(cls, views: Iterable[EngineView]) -> EngineView | None:
        """Several engines as one: rates and counts add up, shares and times are their mean."""
        found = list(views)
        if not found:
            return None
        summed = ("prompt_tokens_per_s", "output_tokens_per_s", "running", "waiting", "preemptions", "out_of_memory")
        averaged = ("padding_share", "cached_share", "busy_share", "step_s", "kv_use")
        sums: dict[str, Any] = {name: sum(getattr(view, name) for view in found) for name in summed}
        means: dict[str, Any] = {name: _mean(getattr(view, name) for view in found) for name in averaged}
        return cls(**sums, **means)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def engine_view(worker: WorkerStatus) -> EngineView | None:
    """What a worker's engine does, over its last announcements."""
    return None if worker.engine is None else EngineView.of(worker.engine, worker.engine_before)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
