"""What every encoder engine shares: queue, batches in flight, error rows, counters."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parquetry.workers.encoding.batching.queue import BatchForm, EncodeQueue, refused
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.engine import Engine
from parquetry.workers.request import EncodeRequest, Encoding, UnderWay

_NOT_FINITE = "the model gave values that are not finite; try model.dtype float32"


class BatchTooLargeError(Exception):
    """The device's memory does not hold the batch."""


@dataclass(frozen=True, eq=False)
class LaunchedBatch:
    """A batch the device is working on."""

    requests: list[EncodeRequest]
    #: whatever `collect` needs to fetch the values
    handle: Any


class QueuedEncoder(Engine):
    """An encoder engine that has only to `launch` a batch and `collect` its values."""

    #: batches launched before the oldest is collected; more than one keep the device busy while the host prepares
    depth = 1

    def __init__(self, limits: RowLimits, budget: int, form: BatchForm) -> None:
        self.limits = limits
        self._queue = EncodeQueue(budget, form, limits.reason)
        self._in_flight: deque[LaunchedBatch] = deque()
        self._cancelled: set[int] = set()
        self._counts = {"prompt_tokens": 0.0, "padding_tokens": 0.0, "batches": 0.0}

    @abstractmethod
    def launch(self, requests: list[EncodeRequest]) -> Any:
        """Start computing; must not wait for the device. Raises BatchTooLargeError."""

    @abstractmethod
    def collect(self, handle: Any) -> np.ndarray | list[np.ndarray]:
        """Wait for a launched batch; float32 in the order of its requests: (num_rows, dim), or an array for each."""

    def add(self, requests: Sequence[EncodeRequest]) -> None:  # type: ignore[override]
        self._queue.add(requests)

    @property
    def is_hungry(self) -> bool:
        return self._queue.is_hungry

    def step(self) -> list[Encoding]:  # type: ignore[override]
        while self._queue.num_waiting and len(self._in_flight) < self.depth:
            self._launch_next()
        results = self._queue.take_refused()
        if self._in_flight:
            batch = self._in_flight.popleft()
            results += self._results(batch.requests, self.collect(batch.handle))
        return results

    def cancel(self, ids: Collection[int]) -> None:
        self._queue.cancel(ids)
        running = {request.id for batch in self._in_flight for request in batch.requests}
        self._cancelled |= running & set(ids)

    @property
    def num_unfinished(self) -> int:
        running = sum(len(batch.requests) for batch in self._in_flight)
        return len(self._queue) + running - len(self._cancelled)

    def stats(self) -> dict[str, float]:
        """As EngineStats, and `batches`; padding counts in tokens."""
        running = sum(len(batch.requests) for batch in self._in_flight)
        computed = self._counts["prompt_tokens"]
        return {**self._counts, "computed_tokens": computed, "running": running, "waiting": self._queue.num_waiting}

    def under_way(self) -> list[UnderWay]:
        # what is launched is as good as computed
        launched = [request for batch in self._in_flight for request in batch.requests]
        return [UnderWay(request.id, len(request.token_ids), 0) for request in launched]

    def count_padding(self, num_tokens: int) -> None:
        """Add padding tokens of a batch."""
        self._counts["padding_tokens"] += num_tokens

    def _launch_next(self) -> None:
        requests = self._without_unknown_ids(self._queue.take_batch())
        if not requests:
            return
        try:
            handle = self.launch(requests)
        except BatchTooLargeError:
            self._shrink(requests)
            return
        self._in_flight.append(LaunchedBatch(requests, handle))
        self._counts["batches"] += 1
        self._counts["prompt_tokens"] += sum(len(r.token_ids) for r in requests)

    def _without_unknown_ids(self, requests: list[EncodeRequest]) -> list[EncodeRequest]:
        reasons = self.limits.unknown_ids(requests)
        self._queue.refuse(reasons)
        return [r for r in requests if r.id not in reasons] if reasons else requests

    def _shrink(self, requests: list[EncodeRequest]) -> None:
        """Retry with half the tokens; a row that does not fit alone is an error row."""
        if len(requests) == 1:
            row = requests[0]
            self._queue.refuse({row.id: f"the row of {len(row.token_ids)} tokens does not fit the device's memory"})
            return
        self._queue.budget = max(1, sum(len(r.token_ids) for r in requests) // 2)
        self._queue.put_back(requests)

    def _results(self, requests: list[EncodeRequest], values: np.ndarray | list[np.ndarray]) -> list[Encoding]:
        finite = _finite_rows(values)
        if finite.all() and not self._cancelled:
            return [Encoding(id=request.id, values=row) for request, row in zip(requests, values, strict=True)]
        results = []
        for request, row, is_finite in zip(requests, values, finite, strict=True):
            if request.id in self._cancelled:
                self._cancelled.discard(request.id)
            elif is_finite:
                results.append(Encoding(id=request.id, values=row))
            else:
                results.append(refused(request.id, _NOT_FINITE))
        return results


def _finite_rows(values: np.ndarray | list[np.ndarray]) -> np.ndarray:
    """(num_rows,) bool."""
    if isinstance(values, np.ndarray):
        return np.isfinite(values).all(axis=1)
    return np.array([np.isfinite(row).all() for row in values])
