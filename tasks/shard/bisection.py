"""An engine client for a quarantined shard: it finds the rows that kill engines, and answers the others.

What was in flight when the engine died is halved and tried again, until one row alone has killed the engine twice;
that row is answered with an error. A death costs one load of the model, so a bad row among n costs about log2(n) + 2.
An engine that dies on rows from all over the shard and answers none is to blame itself: then no row is. Nor is any
where it said why it died, and said the same of different rows.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Self

import numpy as np

from parquetry.schemas.errors import EngineFaultError, EngineLostError, EngineUnfitError
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.client import EngineClient
from parquetry.workers.process.fault_log import kind_of
from parquetry.workers.request import Completion, Encoding, GenerationRequest, Request, Result, UnderWay

log = logging.getLogger(__name__)
#: times the engine must die on a row alone before the row is blamed: once may be chance
DEATHS_TO_BLAME = 2
#: rows blamed before any was answered that speak against the engine
MAX_BLAMED_UNANSWERED = 3
#: loads of the model one attempt may cost
MAX_DEATHS = 64
#: token budget of a quarantine engine when the spec leaves it open: less in a batch, less to halve
QUARANTINE_TOKEN_BUDGET = 4096


def quarantine_spec(spec: EngineSpec, shard: str) -> EngineSpec:
    """A spec that no other shard asks for, so that its engine serves this shard alone and its deaths hit no other.

    Two quarantined shards share none either: a death could not be traced to the rows of one of them.
    """
    budget = (spec.token_budget or 2 * QUARANTINE_TOKEN_BUDGET) // 2
    return spec.model_copy(update={"token_budget": max(budget, 1), "reserved_for": shard})


class Bisection:
    """Used like an EngineClient, and outlives its engines. `connect` makes a client of a fresh engine."""

    def __init__(self, connect: Callable[[], EngineClient], *, blames_rows: bool = False) -> None:
        """With `blames_rows` rows are blamed though engines give the same reason for several."""
        self._connect = connect
        self._engine = connect()
        #: requests that are sent together, batch after batch
        self._batches: deque[list[Request]] = deque()
        self._in_flight: dict[int, Request] = {}
        #: answers to requests of rows that were blamed before they were sent
        self._answers: list[Result] = []
        self._deaths_alone: Counter[int] = Counter()
        #: why each blamed row is an error row
        self._blamed: dict[int, str] = {}
        self._has_answered = False
        self._blames_rows = blames_rows
        #: by the reason that engines gave, the rows that were in flight every time
        self._suspects: dict[str, set[int]] = {}
        self.num_deaths = 0

    def describe(self) -> dict[str, str]:
        return self._engine.describe()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; one batch is in flight at a time."""
        self._batches.append(list(requests))

    def cancel(self, ids: Collection[int]) -> None:
        gone = set(ids)
        self._batches = deque([request for request in batch if request.id not in gone] for batch in self._batches)
        self._engine.cancel(ids)

    def results(self, timeout: float = 0.0) -> list[Result]:
        """Raises EngineLostError when the engine is to blame or has died MAX_DEATHS times, EngineStartError when none
        comes up again, and EngineUnfitError when engines gave one reason for different rows.
        """
        try:
            self._send_next()
            found = self._engine.results(timeout) if self._in_flight else []
        except EngineLostError as error:
            self._halve(error)
            found = []
        self._has_answered = self._has_answered or bool(found)
        for result in found:
            self._in_flight.pop(result.id, None)
        answers, self._answers = self._answers, []
        return [*answers, *found]

    def under_way(self) -> Collection[UnderWay]:
        """As EngineClient has it."""
        return self._engine.under_way()

    def _send_next(self) -> None:
        while self._batches and not self._in_flight:
            batch = self._batches.popleft()
            self._answers += [failure(r, self._blamed[row_of(r)]) for r in batch if row_of(r) in self._blamed]
            others = [request for request in batch if row_of(request) not in self._blamed]
            # noted first: an engine may die on the first request while the last is still being sent
            self._in_flight = {request.id: request for request in others}
            if others:
                self._engine.submit(others)

    def _halve(self, error: EngineLostError) -> None:
        """After a death of the engine: queue the two halves of what was in flight, and connect to a fresh engine."""
        self.num_deaths += 1
        if self.num_deaths > MAX_DEATHS:
            raise error
        suspects, self._in_flight = list(self._in_flight.values()), {}
        rows = list(dict.fromkeys(map(row_of, suspects)))
        log.warning("the engine died with %d rows in flight: %s", len(rows), error)
        self._require_suspect(rows, error)
        if len(rows) == 1:
            self._count_death_alone(rows[0], error)
        halves = split(suspects, set(rows[: len(rows) // 2]))
        # behind the others: when both halves of a batch kill engines, that is soon known
        self._batches.extend(half for half in halves if half)
        self._engine.close()
        self._engine = self._connect()

    def _require_suspect(self, rows: Collection[int], error: EngineLostError) -> None:
        """Raise EngineUnfitError when no row was in flight each time that engines gave this reason."""
        if self._blames_rows or not isinstance(error, EngineFaultError):
            return
        kind = kind_of(error.reason)
        self._suspects[kind] = self._suspects.get(kind, set(rows)) & set(rows)
        if not self._suspects[kind]:
            raise EngineUnfitError(reason=error.reason) from error

    def _count_death_alone(self, row: int, error: EngineLostError) -> None:
        """Blame the row at its second death, or the engine when it never answered anything and several are blamed."""
        self._deaths_alone[row] += 1
        if self._deaths_alone[row] < DEATHS_TO_BLAME:
            return
        self._blamed[row] = f"the engine died {DEATHS_TO_BLAME} times on this row alone. {error}"
        if self._has_answered:
            return
        if len(self._blamed) >= MAX_BLAMED_UNANSWERED:
            raise error
        # neighbours may be bad alike: look elsewhere before the engine is suspected
        self._batches.rotate(1)

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def row_of(request: Request) -> int:
    """What is blamed together: all samples of a row, or the one encode request it has."""
    return request.row if isinstance(request, GenerationRequest) else request.id


def split(requests: Iterable[Request], rows: Collection[int]) -> tuple[list[Request], list[Request]]:
    """Those of `rows`, and the others."""
    inside: list[Request] = []
    outside: list[Request] = []
    for request in requests:
        (inside if row_of(request) in rows else outside).append(request)
    return inside, outside


def failure(request: Request, reason: str) -> Result:
    """The answer that makes a row an error row."""
    if isinstance(request, GenerationRequest):
        return Completion(id=request.id, output_ids=np.empty(0, np.int32), finish_reason="error", error=reason)
    return Encoding(id=request.id, values=np.empty(0, np.float32), error=reason)
