"""Live progress of one job: redrawn in place in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live

from parquetry.monitor.job_view import JobView
from parquetry.terminal.job_lines import job_lines, summary

#: seconds between two plain lines
LINE_SECONDS = 5.0


class Display(Protocol):
    """Shows views as they come in; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, view: JobView) -> None: ...


def live_display(console: Console) -> Display:
    """Bars when `console` is a terminal, plain lines otherwise."""
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def show(self, view: JobView) -> None:
        """Nothing to draw."""


class Lines(Silent):
    """A line on stderr every few seconds and at every change of phase; fit for a log file."""

    def __init__(self) -> None:
        self._phase: object = None
        self._printed = float("-inf")

    def show(self, view: JobView) -> None:
        """Print a line when it is time for one."""
        due = time.monotonic() - self._printed >= LINE_SECONDS
        if due or view.phase.phase is not self._phase:
            print(f"{view.status.job} {summary(view)}", file=sys.stderr, flush=True)
            self._phase, self._printed = view.phase.phase, time.monotonic()


class Bars:
    """The job's lines, redrawn in place when something has changed: over a slow link nothing is sent twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._fancy = console.encoding.lower().startswith("utf")
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._shown: list[str] = []

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, view: JobView) -> None:
        """Draw the job as it is now."""
        lines = job_lines(view, self._console.width, fancy=self._fancy)
        plain = [line.plain for line in lines]
        if plain != self._shown:
            self._live.update(Group(*lines), refresh=True)
            self._shown = plain
