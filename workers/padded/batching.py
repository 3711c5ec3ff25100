"""Chooses the waiting requests of the next padded batch. No torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Identified(Protocol):
    """A request, as far as batching is concerned."""

    @property
    def id(self) -> int: ...


R = TypeVar("R", bound=Identified)


@dataclass(order=True, frozen=True)
class Waiting(Generic[R]):
    """A request and the most tokens it may hold, output included."""

    #: only requests of the same group share a batch
    group: int
    num_tokens: int
    #: older requests first among equals
    number: int
    request: R = field(compare=False)


class LengthSorted(Generic[R]):
    """Requests sorted by length, longest first: a batch pads little and memory trouble shows early."""

    def __init__(self, *, token_budget: int, max_rows: int) -> None:
        if min(token_budget, max_rows) < 1:
            raise ValueError("token_budget and max_rows must be at least 1")
        self.token_budget = token_budget
        self.max_rows = max_rows
        self._waiting: list[Waiting[R]] = []
        self._is_sorted = True
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[R]:
        return (waiting.request for waiting in self._waiting)

    def add(self, request: R, num_tokens: int, group: int = 0) -> None:
        """Queue a request that will hold at most `num_tokens` tokens, for a batch of no other `group` than its own."""
        self._number -= 1
        self._waiting.append(Waiting(group, num_tokens, self._number, request))
        self._is_sorted = False

    def take(self) -> list[R]:
        """The longest requests of the last group: as many as fit when all are padded to the longest, at least one."""
        if not self._is_sorted:
            self._waiting.sort()
            self._is_sorted = True
        if not self._waiting:
            return []
        longest = max(self._waiting[-1].num_tokens, 1)
        first = bisect_left(self._waiting, self._waiting[-1].group, key=lambda waiting: waiting.group)
        count = max(1, min(self.token_budget // longest, self.max_rows, len(self._waiting) - first))
        taken = self._waiting[: -count - 1 : -1]
        del self._waiting[-count:]
        return [waiting.request for waiting in taken]

    def forget(self, ids: Collection[int]) -> None:
        """Drop waiting requests by their id."""
        gone = set(ids)
        self._waiting = [waiting for waiting in self._waiting if waiting.request.id not in gone]

    def shrink(self, num_rows: int, num_tokens: int) -> None:
        """Halve the budget after a batch of `num_rows` rows of up to `num_tokens` tokens ran out of memory."""
        self.token_budget = max(1, min(self.token_budget, num_rows * num_tokens) // 2)
