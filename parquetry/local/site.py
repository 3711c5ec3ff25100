"""Where a run computes: the broker and the worker that it uses, and what it does on leaving them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from parquetry.broker import open_ledger
from parquetry.local.embedded import embedded_server
from parquetry.local.worker import LocalWorker, WorkerCommand, log_path
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from parquetry.schemas.storage.opening import open_storage

if TYPE_CHECKING:
    from parquetry.tasks.ledger.ledger import Ledger


class Revivable(Protocol):
    """A worker that is watched while somebody waits for it."""

    @property
    def log(self) -> Path | None:
        """Where it logs; None for one that was started elsewhere."""

    def revive(self, rows_done: int) -> None:
        """Start it again if it has died. Raises WorkerDiedError when it dies without getting anywhere."""


class Site(Protocol):
    """The broker and the worker of a run."""

    #: what an interrupt does to running shards
    stopping: str
    #: whether its broker is still there once the run has ended
    outlives_run: bool

    def broker(self) -> AbstractContextManager[tuple[str, Ledger]]:
        """The broker's URL and its ledger."""

    def worker(self, ledger: Ledger, job: str, command: WorkerCommand) -> AbstractContextManager[Revivable]:
        """A worker that serves the queue of `command`."""

    def leave(self, ledger: Ledger, job: str, *, is_ours: bool) -> None:
        """What is done when nobody waits any more; `is_ours`: the job was not there before."""


class OwnSite:
    """A broker (unless one is configured) and a worker for one run of one job; both end with it."""

    def __init__(self) -> None:
        self.stopping = (
            f"Stopping: running shards have {settings().drain_seconds:g} s to finish; Ctrl-C again stops at once."
        )
        self.outlives_run = settings().broker_url is not None

    @contextmanager
    def broker(self) -> Iterator[tuple[str, Ledger]]:
        """The configured broker, or an embedded one for as long as the context lasts."""
        with ExitStack() as stack:
            url = settings().broker_url or stack.enter_context(embedded_server())
            yield url, open_ledger(url)

    def worker(self, ledger: Ledger, job: str, command: WorkerCommand) -> AbstractContextManager[Revivable]:
        """A worker that is drained at the end, no longer than it has something left to finish."""
        return LocalWorker(command, log_path(job), lambda: _may_leave(ledger, job))

    def leave(self, ledger: Ledger, job: str, *, is_ours: bool) -> None:
        """Write down what only the queue knows, which ends with this run."""
        if settings().broker_url is None:
            write_down(ledger, job, is_ours=is_ours)


def _may_leave(ledger: Ledger, job: str) -> bool:
    """Whether the worker has nothing left to finish. On a shared broker it may hold other people's shards."""
    if settings().broker_url is not None:
        return False
    status = ledger.status(job, max_failures=0)
    return status.state.is_final or status.shards_running == 0


def write_down(ledger: Ledger, job: str, *, is_ours: bool) -> None:
    """What an ending queue alone knows of a job goes to its output; what has no part leaves its folder free."""
    from parquetry.producers.output.output_folder import give_up
    from parquetry.tasks.hooks import run_due_hooks
    from parquetry.tasks.kept_history import try_to_keep_history
    from parquetry.tasks.ledger.outbox import FIRST_REST_MS
    from parquetry.tasks.webhooks import deliver_due

    status = ledger.status(job)
    if not status.state.is_final:
        # the job goes on with another run
        try_to_keep_history(ledger, job, status.output)
    # notices that the worker had in hand are sent again
    for tell in (deliver_due, run_due_hooks):
        tell(ledger, ahead_s=FIRST_REST_MS // 1000)
    # what was paid for is not forgotten
    is_open = status.state is JobState.FAILED or (is_ours and not status.state.is_final and status.why != "budget")
    if is_open and not status.shards_done:
        # nobody else knows the job: with another spec it may be tried in the same folder
        give_up(open_storage(Location.parse(status.output)))
