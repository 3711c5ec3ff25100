"""The worker node that `run` starts beside itself, watched and restarted while it is needed."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from parquetry.local.old_logs import prune
from parquetry.schemas.errors import UnusableEnvironmentError
from parquetry.schemas.settings import settings
from parquetry.workers.process import start as child
from parquetry.workers.process.owned_folder import NODE_PREFIX, sweep

#: deaths without a committed row in between after which we give up
MAX_DEATHS = 3
RESTART_SECONDS = 1.0
#: at most this long between two beats
BEAT_SECONDS = 1.0
LOG_LINES = 15
#: what a draining worker may take beyond its own drain time
STOP_MARGIN_SECONDS = 15.0


class StateFolderError(UnusableEnvironmentError):
    """The folder {path} of our state cannot be written ({reason}); name another one with PARQUETRY_STATE_DIR."""


class WorkerDiedError(UnusableEnvironmentError):
    """The worker ended {deaths} times in a row (last exit code {code}); its log {log} ends with:
    {tail}"""


@dataclass(frozen=True, kw_only=True)
class WorkerCommand:
    """What to start: a node that serves `queue` of the broker at `url`."""

    url: str
    queue: str
    #: engines on the CPU; None lets the node take every visible GPU, or the CPU once
    cpu_engines: int | None = None

    def arguments(self) -> list[str]:
        """The command line."""
        cpu = [] if self.cpu_engines is None else ["--cpu-engines", str(self.cpu_engines)]
        return child.module_command("parquetry", "worker", "--queues", self.queue, *cpu)


class LocalWorker:
    """A leashed `parquetry worker`. Leaving the context drains it, no longer than until `is_idle`."""

    #: the one that runs now, or the last that did
    process: subprocess.Popen[bytes]

    def __init__(self, command: WorkerCommand, log: Path, is_idle: Callable[[], bool] = lambda: False) -> None:
        self._command = command
        self.log = log
        self._is_idle = is_idle
        self._deaths = 0
        self._rows_at_death = 0

    def __enter__(self) -> Self:
        make_state_folder(self.log.parent)
        prune(self.log.parent)
        self.process = self._start("wb")
        return self

    def __exit__(self, *error: object) -> None:
        child.stop(self.process, settings().drain_seconds + STOP_MARGIN_SECONDS, self._is_idle)
        # one that was idle was killed, and could not remove its own
        sweep(NODE_PREFIX)

    def revive(self, rows_done: int) -> None:
        """Start the worker again if it has died. Raises WorkerDiedError when it dies without getting anywhere."""
        code = self.process.poll()
        if code is None:
            return
        self._deaths = self._deaths + 1 if rows_done <= self._rows_at_death or not self._deaths else 1
        self._rows_at_death = rows_done
        if self._deaths >= MAX_DEATHS:
            raise WorkerDiedError(deaths=self._deaths, code=code, log=self.log, tail=child.tail(self.log, LOG_LINES))
        time.sleep(RESTART_SECONDS)
        self.process = self._start("ab")

    def _start(self, mode: str) -> subprocess.Popen[bytes]:
        environment = {"PARQUETRY_BROKER_URL": self._command.url, "PARQUETRY_BEAT_SECONDS": str(_beat_seconds())}
        with self.log.open(mode) as sink:
            return child.start(self._command.arguments(), sink, **environment)


def make_state_folder(folder: Path) -> None:
    """Raises StateFolderError where it cannot be made, or nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StateFolderError(path=folder, reason=error.strerror) from None


def _beat_seconds() -> float:
    """Beats carry progress: on one machine they are cheap, and somebody is watching."""
    return min(settings().beat_interval, BEAT_SECONDS)


def log_path(job: str) -> Path:
    """Where the worker of a `run` of this job logs; one file a process, so that two runs do not mix."""
    return settings().state_dir / "logs" / f"{job}.{os.getpid()}.log"
