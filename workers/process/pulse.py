"""An engine's signs of life: lines of JSON on a pipe to whoever started it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from parquetry.schemas.progress.status import EngineStats

_EVERY_S = 1.0
#: engines call it often while they work, to show that they are alive
SendPulse = Callable[[], None]


class Pulse:
    """The engine's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._last = 0.0

    def loading(self) -> None:
        """The libraries are there, and the engine that was asked for is being made."""
        self._write({"state": "loading"})

    def ready(self) -> None:
        """The engine that was asked for can be used."""
        self._write({"state": "ready"})

    def send(self, stats: Callable[[], EngineStats] | None = None) -> None:
        """Still alive, with what the engine has counted.

        Written at most once a second, and `stats` called no more often, so it may be called from inner loops.
        """
        now = time.monotonic()
        if now - self._last < _EVERY_S:
            return
        self._last = now
        counted = {"stats": stats().model_dump(exclude_defaults=True)} if stats is not None else {}
        self._write({"state": "alive", **counted})

    def failed(self, reason: str, *, permanent: bool, repeats: bool = False) -> None:
        """The engine ends; `permanent` means that another try to load would fail the same way, and `repeats` that the
        rows which were computed would.
        """
        self._write({"state": "failed", "reason": reason[:2000], "permanent": permanent, "repeats": repeats})

    def refused(self, reason: str) -> None:
        """The engine asked for will never be; the model stays loaded, and another engine may be asked for."""
        self._write({"state": "refused", "reason": reason[:2000], "permanent": True})

    def outgrown(self, reason: str) -> None:
        """The engine asked for needs the weights loaded anew, in another process."""
        self._write({"state": "outgrown", "reason": reason[:2000]})

    def _write(self, message: dict[str, object]) -> None:
        try:
            os.write(self._descriptor, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            # the supervisor is gone, and with it whoever wanted results
            os._exit(1)


class PulseReader:
    """The other end: what an engine or a rank has said since it was last asked. The descriptor must not block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._partial = b""
        #: False once the process has closed its end, that is, died
        self.is_open = True

    def read(self) -> list[dict[str, object]]:
        """The messages that are whole by now."""
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return []
        self.is_open = bool(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [json.loads(line) for line in lines]
