"""The rendering process as its parent sees it: started once, asked for many rows, and gone when one was too much."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

from parquetry.workers.preparation.rendering.answers import Failed, Rendered, read_answers
from parquetry.workers.process.start import module_command
from parquetry.workers.process.wire import Frame, FrameBuffer, WireError, receive, send

#: seconds without an answer after which it is killed; processor time ends a template long before
WALL_S = 60.0
#: what it needs of our environment: where modules lie, and nothing that could be a secret
_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE", "PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
#: signals that nobody but the kernel sends it, for what a template does
_OF_TEMPLATES = (signal.SIGPROF, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL)


class ChildEnded(Exception):
    """The process ended while it worked, or was killed for not answering, with a sentence on why."""

    def __init__(self, reason: str, *, is_of_template: bool) -> None:
        super().__init__(reason)
        self.is_of_template = is_of_template


class RenderChild:
    """One rendering process. Of one thread at a time."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(WALL_S)
        self._buffer = FrameBuffer()
        with theirs:
            self._process = subprocess.Popen(
                module_command("parquetry.workers.preparation.rendering.program"),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            )
        self.pid = self._process.pid
        #: the process that started it; one forked from that must not use it
        self._owner = os.getpid()
        self._is_closed = False

    @property
    def is_usable(self) -> bool:
        """Whether rows may be sent to it from this process."""
        return not self._is_closed and self._owner == os.getpid()

    def ask(self, payload: bytes, *, alone: bool) -> Iterator[dict[str, Any] | list[Rendered | Failed]]:
        """What is known of the template, or {"refused": why}; then the rows in order, one by one with `alone`.

        Raises ChildEnded, after what came before the end.
        """
        try:
            send(self._connection, Frame({"alone": alone}, payload))
            for frame in self._frames():
                header = frame.header
                yield read_answers(frame) if "ends" in header else header
                if header.get("last") or "refused" in header:
                    return
        except TimeoutError:
            # a template can do nothing but compute, so a process that only lasts is the machine's fault
            raise self._ended(f"it gave no answer for {WALL_S:g} s") from None
        except (OSError, WireError) as error:
            raise self._ended(str(error)) from None
        raise self._ended("it closed its socket")

    def _frames(self) -> Iterator[Frame]:
        while (frames := receive(self._connection, self._buffer)) is not None:
            yield from frames

    def _ended(self, reason: str) -> ChildEnded:
        """What to raise when the process is gone, or has to go."""
        try:
            code = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.close()
            return ChildEnded(reason, is_of_template=False)
        self.close()
        if code == -signal.SIGPROF:
            return ChildEnded("it takes more processor time than a template may", is_of_template=True)
        how = f"{reason} (killed by {signal.Signals(-code).name})" if code < 0 else f"{reason} (exit code {code})"
        if code < 0 and -code in _OF_TEMPLATES:
            how = f"it takes more memory or deeper nesting than there is ({signal.Signals(-code).name})"
        return ChildEnded(how, is_of_template=code < 0 and -code in _OF_TEMPLATES)

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._is_closed = True
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
