"""An engine client for a shard that engines keep dying on: it finds the rows to blame, and answers the others.

What was in flight when the engine died is halved and tried again, until one row alone has killed the engine twice;
that row is answered with an error. A death costs one load of the model, so a bad row among n costs about log2(n) + 2.
An engine that dies on rows from all over the shard and answers none is to blame itself: then no row is.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Self

import numpy as np

from parquetry.schemas.errors import EngineLostError
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.client import EngineClient
from parquetry.workers.request import Completion, Encoding, GenerationRequest, Request, Result

log = logging.getLogger(__name__)
#: times the engine must die on a row alone: once may be chance
PROOFS = 2
#: rows blamed before any was answered that speak against the engine
SUSPICIOUS = 3
#: loads of the model one attempt may cost
MAX_DEATHS = 64
#: a sieve asks for an engine with less in a batch
CAREFUL_TOKEN_BUDGET = 4096


def careful(spec: EngineSpec, shard: str) -> EngineSpec:
    """A spec of its own, so that the supervisor gives the engine to nobody else, and deaths hit no other shard.

    Not to another quarantined shard either: what was in flight there would be blamed for this one's rows.
    """
    budget = (spec.token_budget or 2 * CAREFUL_TOKEN_BUDGET) // 2
    return spec.model_copy(update={"token_budget": max(budget, 1), "reserved_for": shard})


class Sieve:
    """Stands where an EngineClient would, and outlives its engines. `connect` makes a client of a fresh engine."""

    def __init__(self, connect: Callable[[], EngineClient]) -> None:
        self._connect = connect
        self._engine = connect()
        self._groups: deque[list[Request]] = deque()
        self._in_flight: dict[int, Request] = {}
        self._answers: list[Result] = []
        self._deaths_alone: Counter[int] = Counter()
        self._blamed: dict[int, str] = {}
        self._has_answered = False
        self.num_deaths = 0

    def describe(self) -> dict[str, str]:
        return self._engine.describe()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; one group is in flight at a time."""
        self._groups.append(list(requests))

    def cancel(self, ids: Collection[int]) -> None:
        gone = set(ids)
        self._groups = deque([request for request in group if request.id not in gone] for group in self._groups)
        self._engine.cancel(ids)

    def results(self, timeout: float = 0.0) -> list[Result]:
        """Raises EngineLostError when the engine is to blame or has died MAX_DEATHS times, EngineStartError when none
        comes up again."""
        try:
            self._send_next()
            found = self._engine.results(timeout) if self._in_flight else []
        except EngineLostError as error:
            self._mourn(error)
            found = []
        self._has_answered = self._has_answered or bool(found)
        for result in found:
            self._in_flight.pop(result.id, None)
        answers, self._answers = self._answers, []
        return [*answers, *found]

    def _send_next(self) -> None:
        while self._groups and not self._in_flight:
            group = self._groups.popleft()
            self._answers += [failure(r, self._blamed[row_of(r)]) for r in group if row_of(r) in self._blamed]
            sound = [request for request in group if row_of(request) not in self._blamed]
            # noted first: an engine may die on the first request while the last is still being sent
            self._in_flight = {request.id: request for request in sound}
            if sound:
                self._engine.submit(sound)

    def _mourn(self, error: EngineLostError) -> None:
        self.num_deaths += 1
        if self.num_deaths > MAX_DEATHS:
            raise error
        suspects, self._in_flight = list(self._in_flight.values()), {}
        rows = list(dict.fromkeys(map(row_of, suspects)))
        log.warning("the engine died with %d rows in flight: %s", len(rows), error)
        if len(rows) == 1:
            self._accuse(rows[0], error)
        half = set(rows[: len(rows) // 2])
        halves = split(suspects, half)
        self._groups.extendleft(group for group in reversed(halves) if group)
        self._engine.close()
        self._engine = self._connect()

    def _accuse(self, row: int, error: EngineLostError) -> None:
        self._deaths_alone[row] += 1
        if self._deaths_alone[row] < PROOFS:
            return
        self._blamed[row] = f"the engine died {PROOFS} times on this row alone. {error}"
        if self._has_answered:
            return
        if len(self._blamed) >= SUSPICIOUS:
            raise error
        # neighbours may be bad alike: look elsewhere before the engine is suspected
        self._groups.rotate(1)

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
    inside, outside = [], []
    for request in requests:
        (inside if row_of(request) in rows else outside).append(request)
    return inside, outside


def failure(request: Request, reason: str) -> Result:
    """The answer that makes a row an error row."""
    if isinstance(request, GenerationRequest):
        return Completion(id=request.id, output_ids=np.empty(0, np.int32), finish_reason="error", error=reason)
    return Encoding(id=request.id, values=np.empty(0, np.float32), error=reason)
