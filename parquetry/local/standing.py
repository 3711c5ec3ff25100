"""The site that calls of one Python process share: its broker, and its workers with the models that they hold."""

from __future__ import annotations

import atexit
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from parquetry.broker import open_ledger
from parquetry.local.embedded import embedded_server
from parquetry.local.keeper import Keeper
from parquetry.local.site import Revivable, write_down
from parquetry.local.worker import LocalWorker, WorkerCommand, log_path
from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings

if TYPE_CHECKING:
    from parquetry.tasks.ledger.ledger import Ledger


class StandingSite:
    """Started by the first call that needs it, closed with the process. Calls of several threads may share it."""

    stopping = "Stopping: running shards are given back; the same call continues from the finished rows."
    outlives_run = True

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._stack = ExitStack()
        self._keeper = Keeper()
        self._lock = threading.Lock()
        self._url: str | None = None
        self._workers: dict[str, StandingWorker] = {}
        #: jobs that were left, and whether they were not there before
        self._left: dict[str, bool] = {}

    @property
    def url(self) -> str:
        """The configured broker, or the embedded one, which is started when there is none yet."""
        if (configured := settings().broker_url) is not None:
            return configured
        with self._lock:
            # by the thread that does it: one that waits for it may be interrupted
            return self._url or self._keeper.call(self._serve)

    def _serve(self) -> str:
        if self._url is None:
            self._url = self._stack.enter_context(embedded_server())
        return self._url

    @contextmanager
    def broker(self) -> Iterator[tuple[str, Ledger]]:
        """The broker, which stays when the context ends."""
        yield self.url, open_ledger(self.url)

    @contextmanager
    def worker(self, ledger: Ledger, job: str, command: WorkerCommand) -> Iterator[Revivable]:
        """A worker of this machine that serves the queue already, or one that is started now and stays."""
        with self._lock:
            standing = self._workers.get(command.queue)
            if standing is None or standing.command != command:
                if standing is not None:
                    self._keeper.call(standing.stop)
                standing = self._workers[command.queue] = StandingWorker(self._keeper, ledger, command)
        standing.ensure()
        yield standing

    def leave(self, ledger: Ledger, job: str, *, is_ours: bool) -> None:
        """Pause a job that nobody waits for any more: what it has computed stays, and the next call resumes it."""
        self._left[job] = is_ours or self._left.get(job, False)
        with suppress(ParquetryError):
            if not ledger.status(job, max_failures=0).state.is_final:
                ledger.set_state(job, JobState.PAUSED)

    def close(self) -> None:
        """End the workers and the broker. What is under way goes on with the next call on its folder."""
        with self._lock:
            for worker in self._workers.values():
                self._keeper.call(worker.stop)
            self._workers.clear()
            if self._url is not None:
                self._write_down(self._url)
            self._keeper.call(self._stack.close)
            self._url = None
        self._keeper.end()

    def _write_down(self, url: str) -> None:
        for job, is_ours in self._left.items():
            # a process that ends has nobody to tell
            with suppress(ParquetryError):
                write_down(open_ledger(url), job, is_ours=is_ours)


class StandingWorker:
    """A worker of this process that stays between calls, unless this machine has one that serves the queue."""

    def __init__(self, keeper: Keeper, ledger: Ledger, command: WorkerCommand) -> None:
        self.command = command
        self._keeper = keeper
        self._ledger = ledger
        self._own: LocalWorker | None = None

    @property
    def log(self) -> Path | None:
        """Where it logs; None for one that was started elsewhere."""
        return None if self._own is None else self._own.log

    def ensure(self) -> None:
        """Start one where none is."""
        if self._own is None and not self._is_served():
            self._keeper.call(self._start)

    def _start(self) -> None:
        if self._own is None:
            self._own = LocalWorker(self.command, log_path("standing"), self._is_idle)
            self._own.__enter__()

    def revive(self, rows_done: int) -> None:
        """Start it again if it has died. Raises WorkerDiedError when it dies without getting anywhere."""
        if self._own is None:
            self.ensure()
            return
        own = self._own
        if own.process.poll() is not None:
            self._keeper.call(lambda: own.revive(rows_done))

    def stop(self) -> None:
        """End it, no later than it has nothing left to finish."""
        if self._own is not None:
            own, self._own = self._own, None
            own.__exit__()

    def _is_served(self) -> bool:
        """Whether somebody else's worker of this machine serves the queue; an embedded broker has none."""
        if settings().broker_url is None:
            return False
        here = [worker for worker in self._ledger.workers() if worker.host == socket.gethostname()]
        return any(self.command.queue in worker.queue.split(",") and not worker.drained for worker in here)

    def _is_idle(self) -> bool:
        # on a shared broker it may hold other people's shards, which get their time
        if settings().broker_url is not None:
            return False
        with suppress(ParquetryError):
            return not any(status.shards_running for status in self._ledger.jobs())
        return True


_site: StandingSite | None = None
_lock = threading.Lock()


def standing_site() -> StandingSite:
    """The site of this process; a fork has one of its own."""
    global _site
    with _lock:
        if _site is None or _site.pid != os.getpid():
            _site = StandingSite()
        return _site


def standing_url() -> str | None:
    """The broker of this process's site, None where it has none yet."""
    site = _site
    return None if site is None or site.pid != os.getpid() else site._url


@atexit.register
def close() -> None:
    """End the broker and the workers that calls of this process have started; a later call starts others."""
    global _site
    with _lock:
        site, _site = _site, None
    if site is not None and site.pid == os.getpid():
        site.close()
