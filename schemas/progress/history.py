"""How far a job was over time: points kept in Redis while it runs, and in `_history.json` beside its output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from parquetry.schemas.progress.events import JobEvent, ShardEnd
from parquetry.schemas.progress.prediction import Prediction

HISTORY_FILE = "_history.json"


class HistoryPoint(NamedTuple):
    """One moment of a job. Counts are totals since its start, running shards included; the scripts keep this order.

    Counts of engines are sums over the workers that compute the job, and begin anew with every engine: only a
    difference of two points means something, and a negative one nothing.
    """

    #: since the Unix epoch, on the clock of Redis
    at_ms: int
    #: finished
    rows: int = 0
    error_rows: int = 0
    #: of finished rows
    prompt_tokens: int = 0
    output_tokens: int = 0
    #: of unfinished rows too
    computed_prompt_tokens: int = 0
    computed_output_tokens: int = 0
    shards_running: int = 0
    #: those of them that have their engine
    shards_computing: int = 0
    #: workers with such a shard
    workers: int = 0
    #: time with at least one such worker, and the sum over such workers
    active_ms: int = 0
    worker_ms: int = 0
    #: requests in the engines
    requests_running: int = 0
    requests_waiting: int = 0
    #: mean share of the KV caches in use, in thousandths
    kv_use: int = 0
    #: see EngineStats
    engine_computed_tokens: int = 0
    engine_padding_tokens: int = 0
    engine_prompt_tokens: int = 0
    engine_cached_tokens: int = 0
    preemptions: int = 0
    #: output tokens that a row of the running shards is likely to have, in thousandths; 0 while nothing tells
    row_output: int = 0
    #: finished rows that attempts took from seals of earlier ones, and their tokens among the computed
    reused_rows: int = 0
    reused_prompt_tokens: int = 0
    reused_output_tokens: int = 0
    #: time of cards that workers kept for the job, the loading of its model included
    gpu_ms: int = 0

    @classmethod
    def parse(cls, line: str) -> HistoryPoint:
        """The point of a line of numbers; what a line does not have is 0, what it has beyond is passed over."""
        return cls(*map(int, line.split(":")[: len(cls._fields)]))

    @property
    def line(self) -> str:
        """The numbers as the scripts keep them."""
        return ":".join(map(str, self))


class KeptBudget(BaseModel):
    """The budget that a job had in the queue: whoever raised it did so there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: of cards; None where it has no bound
    ms: int | None
    price_per_gpu_hour: float | None = None


class JobHistory(BaseModel):
    """The content of `_history.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    #: names of the numbers of a point
    fields: tuple[str, ...] = HistoryPoint._fields
    points: tuple[tuple[int, ...], ...]
    #: what happened to it, and its last shards
    events: tuple[JobEvent, ...] = ()
    ends: tuple[ShardEnd, ...] = ()
    #: what was predicted of it before it ran
    prediction: Prediction | None = None
    #: None where that is not told, and the one of its spec counts
    budget: KeptBudget | None = None

    @classmethod
    def of(
        cls,
        job: str,
        points: tuple[HistoryPoint, ...],
        events: Iterable[JobEvent] = (),
        ends: Iterable[ShardEnd] = (),
        prediction: Prediction | None = None,
        budget: KeptBudget | None = None,
    ) -> JobHistory:
        """The history of a job, to be written."""
        past = {"events": tuple(events), "ends": tuple(ends)}
        return cls(job=job, points=points, prediction=prediction, budget=budget, **past)

    def read(self) -> tuple[HistoryPoint, ...]:
        """Its points, whatever version wrote them."""
        return tuple(HistoryPoint(**self._known(point)) for point in self.points)

    def _known(self, point: tuple[int, ...]) -> dict[str, int]:
        return {name: value for name, value in zip(self.fields, point, strict=False) if name in HistoryPoint._fields}
