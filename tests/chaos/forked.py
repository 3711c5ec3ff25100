"""Processes forked from one that has everything imported: a fresh worker in milliseconds, hundreds in a run."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from parquetry.workers.process.leash import die_with_parent

_POLL_S = 0.02


class Forked:
    """`work` in a child process with `environment` on top of ours; its output goes to `log`."""

    def __init__(self, work: Callable[[], None], log: Path, **environment: str) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            die_with_parent(parent)
            _run_and_exit(work, log, environment)
        self._status: int | None = None

    def settle(self, timeout_s: float) -> str:
        """Wait until it has ended or stopped: "killed", "stopped", or "exited N". TimeoutError when it does neither."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                return self._describe(status)
            time.sleep(_POLL_S)
        self.kill()
        raise TimeoutError(f"process {self.pid} was still running after {timeout_s:g} s")

    def _describe(self, status: int) -> str:
        if os.WIFSTOPPED(status):
            return "stopped"
        self._status = status
        return "killed" if os.WIFSIGNALED(status) else f"exited {os.WEXITSTATUS(status)}"

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has been seen to end."""
        if self._status is None:
            self.signal(9)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)


def _run_and_exit(work: Callable[[], None], log: Path, environment: dict[str, str]) -> None:
    code = 1
    try:
        _redirect(log)
        _take_on(environment)
        work()
        code = 0
    # the child must never return into the parent's code
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _take_on(environment: dict[str, str]) -> None:
    from parquetry.schemas.settings import settings

    os.environ.update(environment)
    settings.cache_clear()


def side_by_side(works: Iterable[Callable[[], None]], lanes: int, folder: Path) -> Iterator[str]:
    """Run each work in a process of its own, `lanes` at a time; yields how each ended, in no certain order."""
    running: list[Forked] = []
    for number, work in enumerate(works):
        while len(running) >= lanes:
            yield from _ended(running)
        running.append(Forked(work, folder / f"driver-{number}.log"))
    while running:
        yield from _ended(running)


def _ended(running: list[Forked]) -> Iterator[str]:
    for process in list(running):
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            running.remove(process)
            yield process._describe(status)
    time.sleep(_POLL_S)
