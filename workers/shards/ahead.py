"""The next item of an iterator, made in a thread while the last one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Takes one item of `items` in advance. They must not be None, and nobody else may take any."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._next: Future[T | None] = self._thread.submit(next, items, None)

    def is_ready(self, timeout: float = 0.0) -> bool:
        """Whether `take` would return at once; waits up to `timeout` seconds for it."""
        return bool(wait([self._next], timeout).done)

    def take(self) -> T | None:
        """The item, or None after the last; raises what making it raised."""
        item = self._next.result()
        if item is not None:
            self._next = self._thread.submit(next, self._items, None)
        return item

    def __iter__(self) -> Iterator[T]:
        """What `take` returns, until there is no more."""
        while (item := self.take()) is not None:
            yield item

    def close(self) -> None:
        """Make no more. Waits for the item that is being made."""
        self._thread.shutdown(cancel_futures=True)
