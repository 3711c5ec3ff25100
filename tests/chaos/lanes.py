"""Several commands at once, each in a process of its own; how each ended, as it ends."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from parquetry.workers.process.leash import leashed
from tests.chaos.process import ROOT, environment_of

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Task:
    """A command with a name."""

    name: str
    command: list[str]


def run_in_lanes(
    tasks: Sequence[Task], lanes: int, ended: Callable[[Task, subprocess.CompletedProcess, float], T]
) -> Iterator[tuple[str, T]]:
    """Run the tasks in order, `lanes` at a time; yields the name of each and what `ended` makes of it."""
    waiting, running = list(tasks), dict[Task, tuple[subprocess.Popen, float]]()
    while waiting or running:
        while waiting and len(running) < lanes:
            task = waiting.pop(0)
            running[task] = (_start(task), time.monotonic())
        for task, (process, begin) in list(running.items()):
            if process.poll() is not None:
                del running[task]
                done = subprocess.CompletedProcess(task.command, process.returncode, *process.communicate())
                yield task.name, ended(task, done, time.monotonic() - begin)
        time.sleep(0.1)


def _start(task: Task) -> subprocess.Popen:
    return subprocess.Popen(
        leashed(task.command),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment_of({}),
    )
