"""How long one thing took, over all the times that it was done."""

from __future__ import annotations

import time


class Clock:
    """A context to enter again and again, by one thread; others may read it."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._entered = 0.0

    def __enter__(self) -> None:
        self._entered = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._seconds += time.monotonic() - self._entered

    @property
    def ms(self) -> int:
        """Milliseconds spent inside, all times together."""
        return round(1000 * self._seconds)
