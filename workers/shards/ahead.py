"""Prefetching: the next item of an iterator is computed in a thread while the caller uses the one before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Prefetches one item of `items`, which must not be None. Only this object may advance the iterator."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._next: Future[T | None] = self._thread.submit(next, items, None)

    def is_ready(self, timeout: float = 0.0) -> bool:
        """Whether `take` would return at once; waits up to `timeout` seconds for it."""
        return bool(wait([self._next], timeout).done)

    def take(self) -> T | None:
        """The next item, None at the end. Waits for it, and raises what the iterator raised."""
        item = self._next.result()
        if item is not None:
            self._next = self._thread.submit(next, self._items, None)
        return item

    def __iter__(self) -> Iterator[T]:
        """Items until the iterator ends."""
        while (item := self.take()) is not None:
            yield item

    def close(self) -> None:
        """Stop prefetching. Waits for the item that is being computed."""
        self._thread.shutdown(cancel_futures=True)
