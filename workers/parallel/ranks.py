"""The ranks that rank 0 starts, and what becomes of the engine when one of them dies or falls silent."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from parquetry.schemas.settings import settings
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.parallel.channel import StepSender
from parquetry.workers.process.pulse import PulseReader
from parquetry.workers.process.start import module_command

log = logging.getLogger(__name__)
_TICK_S = 0.2
#: how long the ranks have to be seen dead once something else has failed: a death is the better explanation
_GRACE_S = 3.0
#: of PARQUETRY_ENGINE_STALL_SECONDS: the supervisor would kill rank 0 at the whole of it, and know less
_PATIENCE = 0.8

#: what a rank runs
MODULE = "parquetry.workers.hosting.rank_process"

#: told why the engine cannot go on, and whether another try would end the same way; does not return
Report = Callable[[str, bool], None]


class Rank:
    """One process, leashed to the thread that starts it."""

    def __init__(self, spec: EngineSpec, number: int, store: Path) -> None:
        self.number = number
        self.device = spec.devices[number]
        self.is_ready = False
        self.failure: dict[str, object] | None = None
        self.last_sign = time.monotonic()
        self.connection, theirs = Pipe()
        self.pulse, writer = os.pipe()
        os.set_blocking(self.pulse, False)
        self._signs = PulseReader(self.pulse)
        try:
            self._process = self._start(spec, store, theirs, writer)
        finally:
            theirs.close()
            os.close(writer)

    def _start(self, spec: EngineSpec, store: Path, steps: Connection, writer: int) -> subprocess.Popen:
        command = module_command(MODULE, "--spec", spec.model_dump_json())
        command += ["--rank", str(self.number), "--store", str(store), "--steps", str(steps.fileno())]
        command += ["--pulse", str(writer), "--parent", str(os.getpid())]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(steps.fileno(), writer))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def name(self) -> str:
        return f"rank {self.number} ({self.device})"

    def read_pulse(self) -> bool:
        """Take in signs of life; False when the process has closed its end, that is, died."""
        for message in self._signs.read():
            self._take(message)
        return self._signs.is_open

    def _take(self, message: dict[str, object]) -> None:
        self.last_sign = time.monotonic()
        self.is_ready = self.is_ready or message["state"] == "ready"
        if message["state"] == "failed":
            self.failure = message

    def is_silent(self) -> bool:
        """Whether it has given no sign of life for too long. While it loads, the supervisor watches the clock."""
        limit = settings().engine_stall_seconds * _PATIENCE
        return self.is_ready and time.monotonic() - self.last_sign > limit

    def killed_by(self) -> str | None:
        """Name of the signal that ended the process, or None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK_S)
        code = self._process.returncode
        return None if code is None or code >= 0 else signal.Signals(-code).name

    def explain(self) -> str:
        """Why it ended: its own last message, else the signal that killed it."""
        if self.failure is not None:
            return f"{self.name}: {self.failure['reason']}"
        if killer := self.killed_by():
            return f"{self.name} was killed by {killer}"
        return f"{self.name} ended with code {self._process.returncode}"

    def end(self) -> None:
        """Kill and reap it."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        os.close(self.pulse)


class Ranks:
    """All ranks but this process's own, which is 0."""

    def __init__(self, spec: EngineSpec, store: Path, report: Report) -> None:
        self.members = [Rank(spec, number, store) for number in range(1, len(spec.devices))]
        self.step_sender = StepSender([rank.connection for rank in self.members])
        self._report = report
        self._dismissed = threading.Event()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def wait_ready(self) -> None:
        """Return when every rank has loaded. One that cannot ends the engine."""
        while not all(rank.is_ready for rank in self.members):
            if self._over.wait(_TICK_S / 4):
                raise RuntimeError("a rank of the engine could not load")

    def settle(self) -> None:
        """After an error here: give the watcher time to see that another rank's death explains it."""
        self._over.wait(_GRACE_S)

    def dismiss(self) -> None:
        """Stop watching and end all of them. Harmless when called twice."""
        if self._dismissed.is_set():
            return
        self._dismissed.set()
        self._over.set()
        self._watcher.join()
        for rank in self.members:
            rank.end()

    def _watch(self) -> None:
        """Exchanges between ranks wait for ever, so whatever is wrong with one of them ends the engine."""
        problem = self._first_problem()
        if problem is not None:
            self._report(*problem)
        self._over.set()

    def _first_problem(self) -> tuple[str, bool] | None:
        """Wait for one: why, and whether it is permanent. None once dismissed."""
        by_pulse = {rank.pulse: rank for rank in self.members}
        while not self._dismissed.is_set():
            ready, _, _ = select.select(list(by_pulse), [], [], _TICK_S)
            lost = [rank for pulse in ready if not (rank := by_pulse[pulse]).read_pulse()]
            if (lost or any(rank.failure for rank in self.members)) and not self._dismissed.is_set():
                return self._blame(lost)
            silent = [rank.name for rank in self.members if rank.is_silent()]
            if silent:
                limit = settings().engine_stall_seconds * _PATIENCE
                return f"{' and '.join(silent)} gave no sign of life for {limit:g} s", False
        return None

    def _blame(self, lost: list[Rank]) -> tuple[str, bool]:
        """The rank that was killed rather than those that failed because it was."""
        failed = [rank for rank in self.members if rank.failure or rank in lost]
        killed = [rank for rank in self.members if rank.failure is None and rank.killed_by()]
        culprit = (killed or failed)[0]
        permanent = not killed and bool(culprit.failure and culprit.failure["permanent"])
        return culprit.explain(), permanent
