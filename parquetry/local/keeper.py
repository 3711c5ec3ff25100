"""A thread that starts and stops processes: what is leashed to it lives as long as this process, whoever asked."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Keeper:
    """Runs one call after the other in its own thread. A leash ends with the thread that started the process: a thread
    of the caller's may end long before."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, action: Callable[[], T]) -> T:
        """Run `action` in the keeper's thread and return what it returns, or raise what it raises."""
        if self._thread is None:
            # a daemon: others are waited for before what is to be done at exit is done
            self._thread = threading.Thread(target=self._serve, name="keeper", daemon=True)
            self._thread.start()
        made: Future[T] = Future()
        self._calls.put((action, made))
        return made.result()

    def end(self) -> None:
        """Let the thread end, and whatever is leashed to it."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            action, made = call
            try:
                made.set_result(action())
            except BaseException as error:  # noqa: BLE001  whoever has called gets it
                made.set_exception(error)
