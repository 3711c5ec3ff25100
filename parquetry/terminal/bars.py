"""Live progress of one job: bars in a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from parquetry.monitor.job_progress import History, JobProgress
from parquetry.schemas.status import JobStatus
from parquetry.terminal.display import duration, number

#: seconds between two plain lines
LINE_SECONDS = 5.0


class Display(Protocol):
    """Shows statuses as they come in; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def show(self, status: JobStatus) -> None: ...


def live_display(console: Console) -> Display:
    """Bars when `console` is a terminal, plain lines otherwise."""
    return Bars(console) if console.is_terminal else Lines()


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def show(self, status: JobStatus) -> None:
        """Nothing to draw."""


class Lines(Silent):
    """A line on stderr every few seconds and at every change of state; fit for a log file."""

    def __init__(self) -> None:
        self._history = History()
        self._state: object = None
        self._printed = float("-inf")

    def show(self, status: JobStatus) -> None:
        """Print a line when it is time for one."""
        progress = self._history.add(status)
        due = time.monotonic() - self._printed >= LINE_SECONDS
        if due or status.state is not self._state:
            print(f"{status.job} {status.state}: {summary(status, progress)}", file=sys.stderr, flush=True)
            self._state, self._printed = status.state, time.monotonic()


class Bars:
    """One bar of rows, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._history = History()
        numbers = _Numbers("", table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), numbers)
        self._rich = RichProgress(*columns, console=console, expand=True)
        self._task = self._rich.add_task("starting", total=None, numbers="")

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._rich.stop()

    def show(self, status: JobStatus) -> None:
        """Move the bar. It pulses until the first rows are there, because a model loads first."""
        progress = self._history.add(status)
        started = progress.rows_done > 0 or status.state.is_final
        self._rich.update(
            self._task,
            description=status.state.value,
            total=max(progress.rows, 1) if started else None,
            completed=progress.rows_done,
            numbers=summary(status, progress),
        )


class _Numbers(TextColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["numbers"])


def summary(status: JobStatus, progress: JobProgress) -> str:
    """Rows, speed, time left and failures in one line."""
    texts = [f"{progress.rows_done:,}/{progress.rows:,} rows"]
    if progress.rows_per_s is not None:
        texts.append(f"{number(progress.rows_per_s)} rows/s")
    if progress.tokens_per_s is not None:
        texts.append(f"{number(progress.tokens_per_s)} tok/s")
    if progress.eta_s is not None:
        texts.append(f"{duration(progress.eta_s)} left")
    if status.error_rows:
        texts.append(f"{status.error_rows:,} error rows")
    if status.retries:
        texts.append(f"{status.retries:,} retries")
    if status.shards_failed:
        texts.append(f"{status.shards_failed:,} failed shards")
    return ", ".join(texts)
