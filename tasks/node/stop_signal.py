"""SIGTERM and SIGINT as something a loop can wait for."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType
from typing import Any

from parquetry.schemas.errors import ExitCode

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Set by the first signal; the second one ends this process, and with it everything that is leashed to it.

    A context manager, for the main thread. No threading.Event: its lock is held for moments while it is waited for, and
    a handler that runs in such a moment would wait for it for ever. A pipe needs no lock.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._reader, self._writer = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.is_set:
            os._exit(ExitCode.INTERRUPTED)
        self.is_set = True
        os.write(self._writer, b".")

    def wait(self, timeout_s: float) -> bool:
        """Whether a signal has come, at the latest after `timeout_s`."""
        select.select([self._reader], [], [], timeout_s)
        return self.is_set
