"""One job from start to end on this machine: a broker, a worker, the job, its progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parquetry.broker import open_ledger
from parquetry.local.embedded import embedded_server
from parquetry.local.needed_packages import require_model
from parquetry.local.worker import LocalWorker, WorkerCommand, log_path
from parquetry.monitor.progress.in_flight import WorkInFlight
from parquetry.monitor.watcher import Watcher
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.spec_file import set_key
from parquetry.terminal.bars import Display, Silent, live_display
from parquetry.terminal.display import console
from parquetry.terminal.job_lines import in_flight_line, opening_lines

if TYPE_CHECKING:
    from parquetry.producers.row_retry import Retried
    from parquetry.tasks.ledger.ledger import Ledger

POLL_SECONDS = 0.25
STOPPING = "Stopping: running shards have {seconds:g} s to finish; Ctrl-C again stops at once."


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """How a run ended."""

    status: JobStatus
    #: rows this run itself added; 0 when everything was there already
    rows_added: int
    seconds: float
    #: the worker's log, None when no worker was needed
    log: Path | None
    #: the configured broker's ledger, None when the run had a broker of its own
    ledger: Ledger | None


def run_job(
    spec: JobSpec, *, workers: int | None = None, show: bool = False, retry: Mapping[str, Any] | None = None
) -> FinishedRun:
    """Run `spec` to its end; with `retry` compute its error rows anew, with these settings for them, by dotted key.
    Raises BadInputError before anything is written, WorkerDiedError when nothing works.

       An interrupt drains the worker and leaves a state from which the same call continues.
    """
    from parquetry.producers.output.output_use import in_use
    from parquetry.producers.submission import submit
    from parquetry.tasks.budget_change import raise_budget

    started = time.monotonic()
    with open_broker() as (url, ledger), ExitStack() as stack:
        submitted = submit(spec, ledger, broker_url=url)
        job = submitted.job
        if not submitted.created:
            raise_budget(ledger, job, spec.budget)
        if retry is not None:
            begin_row_retry(ledger, job, retry, broker_url=url)
        before = take_up(ledger, job)
        stack.enter_context(in_use(Location.parse(before.output)))
        after, log = before, None
        try:
            if not before.state.is_final:
                require_model(spec.model)
                log = log_path(job)
                command = WorkerCommand(url=url, queue=before.queue, cpu_engines=workers)
                after = work_until_end(ledger, job, command, log, show=show)
        finally:
            if settings().broker_url is None:
                _leave(ledger, job, is_ours=submitted.created)
        return FinishedRun(
            status=after,
            rows_added=after.rows_done - before.rows_done,
            seconds=time.monotonic() - started,
            log=log,
            ledger=ledger if settings().broker_url else None,
        )


def _leave(ledger: Ledger, job: str, *, is_ours: bool) -> None:
    """Write down what only the queue knows, which ends with this run; what has no part leaves its folder free."""
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


@contextmanager
def open_broker() -> Iterator[tuple[str, Ledger]]:
    """The configured broker, or an embedded one for as long as the context lasts."""
    with ExitStack() as stack:
        url = settings().broker_url or stack.enter_context(embedded_server())
        yield url, open_ledger(url)


def begin_row_retry(ledger: Ledger, job: str, changes: Mapping[str, Any], *, broker_url: str | None) -> Retried:
    """Have the error rows of a job that has ended computed anew. Raises what `retry_rows` raises."""
    from parquetry.producers.row_retry import retry_rows
    from parquetry.tasks.job_record import read_record

    record = read_record(open_storage(Location.parse(ledger.status(job, max_failures=0).output)), job)
    data = record.spec.model_dump(mode="json")
    for key, value in changes.items():
        set_key(data, key, value)
    return retry_rows(ledger, job, JobSpec.parse(data), changes, broker_url=broker_url)


def take_up(ledger: Ledger, job: str) -> JobStatus:
    """Resume a job that was paused or cancelled, and retry one that failed. Raises BudgetSpentError."""
    status = ledger.status(job)
    ledger.require_budget(status)
    if status.state in (JobState.PAUSED, JobState.CANCELLED):
        ledger.set_state(job, JobState.RUNNING)
    elif status.state is JobState.FAILED:
        ledger.retry(job)
    else:
        return status
    return ledger.status(job)


def work_until_end(ledger: Ledger, job: str, command: WorkerCommand, log: Path, *, show: bool) -> JobStatus:
    """Keep a worker alive and show progress until the job has ended."""
    display: Display = live_display(console(stderr=True)) if show else Silent()
    watcher = Watcher(ledger)
    if show:
        print(*opening_lines(ledger.status(job), log), sep="\n", file=sys.stderr, flush=True)
    with LocalWorker(command, log, lambda: may_leave(ledger, job)) as worker:
        try:
            with display:
                return _watch(ledger, job, worker, lambda status: display.show(watcher.view(status)))
        except KeyboardInterrupt:
            if show:
                print(STOPPING.format(seconds=settings().drain_seconds), file=sys.stderr)
                print(in_flight_line(WorkInFlight.of(ledger.status(job))), file=sys.stderr, flush=True)
            raise


def _watch(ledger: Ledger, job: str, worker: LocalWorker, show: Callable[[JobStatus], None]) -> JobStatus:
    while True:
        status = ledger.status(job)
        show(status)
        # one whose budget is spent goes on with another command alone
        if status.state.is_final or (status.why == "budget" and not status.shards_running):
            return status
        worker.revive(status.rows_done)
        time.sleep(POLL_SECONDS)


def may_leave(ledger: Ledger, job: str) -> bool:
    """Whether the worker has nothing left to finish. On a shared broker it may hold other people's shards."""
    if settings().broker_url is not None:
        return False
    status = ledger.status(job, max_failures=0)
    return status.state.is_final or status.shards_running == 0
