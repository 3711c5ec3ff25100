"""Live progress of one job: redrawn in place in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live

from parquetry.monitor.job_view import JobView
from parquetry.monitor.progress.in_flight import WorkInFlight
from parquetry.schemas.progress.status import JobStatus
from parquetry.terminal.job_lines import in_flight_line, job_lines, opening_lines, summary

#: seconds between two plain lines
LINE_SECONDS = 5.0


class Display(Protocol):
    """Shows views as they come in; a context manager."""

    def begin(self, status: JobStatus, log: object | None) -> None:
        """Called once, before the context is entered; `log` is the worker's."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, view: JobView) -> None: ...

    def stop(self, status: JobStatus, sentence: str) -> None:
        """Called after the context when whoever waited was interrupted; the sentence says what becomes of the job."""


def live_display(console: Console) -> Display:
    """Bars when `console` is a terminal, plain lines otherwise."""
    return Bars(console) if is_screen(console) else Lines()


def is_screen(console: Console) -> bool:
    """Whether what it shows can be redrawn in place."""
    return console.is_terminal and not console.is_dumb_terminal


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def begin(self, status: JobStatus, log: object | None) -> None:
        """Nothing to say."""

    def show(self, view: JobView) -> None:
        """Nothing to draw."""

    def stop(self, status: JobStatus, sentence: str) -> None:
        """Nothing to say."""


class Spoken(Silent):
    """Says on stderr what is to be run, and what an interrupt leaves."""

    def begin(self, status: JobStatus, log: object | None) -> None:
        """The job, and where its worker logs."""
        print(*opening_lines(status, log), sep="\n", file=sys.stderr, flush=True)

    def stop(self, status: JobStatus, sentence: str) -> None:
        """What becomes of the job, and of the work in flight."""
        print(sentence, file=sys.stderr)
        print(in_flight_line(WorkInFlight.of(status)), file=sys.stderr, flush=True)


class Lines(Spoken):
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


class Bars(Spoken):
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
