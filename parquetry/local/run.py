"""One job from start to end on this machine: a broker, a worker, the job, its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parquetry.local.needed_packages import require_model
from parquetry.local.site import Revivable, Site
from parquetry.local.worker import WorkerCommand
from parquetry.monitor.watcher import Watcher
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.job import JobSpec, ModelSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.spec_file import set_key
from parquetry.terminal.bars import Display

if TYPE_CHECKING:
    from parquetry.producers.row_retry import Retried
    from parquetry.tasks.ledger.ledger import Ledger

POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """How a run ended."""

    status: JobStatus
    #: rows this run itself added; 0 when everything was there already
    rows_added: int
    seconds: float
    #: the worker's log, None when no worker was started
    log: Path | None
    #: None when the broker has ended with the run
    ledger: Ledger | None
    #: of the broker
    url: str


@dataclass(frozen=True, kw_only=True)
class BegunJob:
    """A job that is registered and may be worked on."""

    job: str
    model: ModelSpec
    #: how it was found
    before: JobStatus
    #: whether it was not there before
    is_ours: bool

    def command(self, url: str, workers: int | None) -> WorkerCommand:
        """The worker that it needs. Raises MissingPackageError."""
        require_model(self.model)
        return WorkerCommand(url=url, queue=self.before.queue, cpu_engines=workers)


def begin_job(spec: JobSpec, ledger: Ledger, url: str, *, retry: Mapping[str, Any] | None = None) -> BegunJob:
    """Register `spec`, or take up the same job where it is there already; with `retry` its error rows are due.

    Raises BadInputError before anything is written.
    """
    from parquetry.producers.submission import submit
    from parquetry.tasks.budget_change import raise_budget

    submitted = submit(spec, ledger, broker_url=url)
    if not submitted.created:
        raise_budget(ledger, submitted.job, spec.budget)
    if retry is not None:
        begin_row_retry(ledger, submitted.job, retry, broker_url=url)
    before = take_up(ledger, submitted.job)
    return BegunJob(job=submitted.job, model=spec.model, before=before, is_ours=submitted.created)


def run_job(
    spec: JobSpec,
    site: Site,
    display: Display,
    *,
    workers: int | None = None,
    retry: Mapping[str, Any] | None = None,
) -> FinishedRun:
    """Run `spec` to its end; with `retry` compute its error rows anew, with these settings for them, by dotted key.

    Raises BadInputError before anything is written, WorkerDiedError when nothing works. An interrupt leaves a state
    from which the same call continues.
    """
    from parquetry.producers.output.output_use import in_use

    started = time.monotonic()
    with site.broker() as (url, ledger), ExitStack() as stack:
        begun = begin_job(spec, ledger, url, retry=retry)
        stack.enter_context(in_use(Location.parse(begun.before.output)))
        after, log = begun.before, None
        try:
            if not after.state.is_final:
                with site.worker(ledger, begun.job, begun.command(url, workers)) as worker:
                    log = worker.log
                    after = follow_until_end(ledger, begun.job, worker, display, site.stopping)
        finally:
            site.leave(ledger, begun.job, is_ours=begun.is_ours)
        return FinishedRun(
            status=after,
            rows_added=after.rows_done - begun.before.rows_done,
            seconds=time.monotonic() - started,
            log=log,
            ledger=ledger if site.outlives_run else None,
            url=url,
        )


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


def follow_until_end(ledger: Ledger, job: str, worker: Revivable, display: Display, stopping: str) -> JobStatus:
    """Keep a worker alive and show progress until the job has ended."""
    watcher = Watcher(ledger)
    display.begin(ledger.status(job), worker.log)
    try:
        with display:
            return _watch(ledger, job, worker, lambda status: display.show(watcher.view(status)))
    except KeyboardInterrupt:
        display.stop(ledger.status(job), stopping)
        raise


def _watch(ledger: Ledger, job: str, worker: Revivable, show: Callable[[JobStatus], None]) -> JobStatus:
    while True:
        status = ledger.status(job)
        show(status)
        # one whose budget is spent goes on with another command alone
        if status.state.is_final or (status.why == "budget" and not status.shards_running):
            return status
        worker.revive(status.rows_done)
        time.sleep(POLL_SECONDS)
