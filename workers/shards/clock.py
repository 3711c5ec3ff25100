"""How long one thing took, over all the times that it was done, and from when to when."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """A context to enter again and again, by one thread; others may read it."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._entered = 0.0
        #: ns since the Unix epoch, of the first entry and of the last leave; 0 before
        self.first_ns = self.last_ns = 0

    def __enter__(self) -> None:
        self._entered = time.monotonic()
        self.first_ns = self.first_ns or time.time_ns()

    def __exit__(self, *error: object) -> None:
        self._seconds += time.monotonic() - self._entered
        self.last_ns = time.time_ns()

    def touch(self) -> None:
        """Note that it goes on, without a time that it took."""
        self.last_ns = time.time_ns()
        self.first_ns = self.first_ns or self.last_ns

    @property
    def ms(self) -> int:
        """Milliseconds spent inside, all times together."""
        return round(1000 * self._seconds)

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, each made inside."""
        given = iter(items)
        while True:
            with self:
                item = next(given, None)
            if item is None:
                return
            yield item


@dataclass(frozen=True)
class StageClocks:
    """Of the stages of one attempt at a shard; they run beside each other."""

    read: Clock = field(default_factory=Clock)
    #: rendering and tokenizing, and of that tokenizing alone
    prepare: Clock = field(default_factory=Clock)
    tokenize: Clock = field(default_factory=Clock)
    #: from the first request to the last answer
    compute: Clock = field(default_factory=Clock)
    write: Clock = field(default_factory=Clock)
