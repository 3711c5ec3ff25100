"""The Python API: `submit` a job to a broker's workers, `run` one on this machine, hold it as a `Job`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from parquetry.broker import open_ledger
from parquetry.schemas.errors import InvalidValueError, ParquetryError, UnusableEnvironmentError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus, WorkerStatus
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.budget import parse_budget
from parquetry.schemas.spec.job import JobSpec
from parquetry.spec_file import load_spec
from parquetry.workers.packages import require

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa

    from parquetry.local.run import FinishedRun
    from parquetry.monitor.job_view import JobView
    from parquetry.producers.plan.duration import MeasuredRows
    from parquetry.producers.plan.planning import Plan
    from parquetry.producers.row_retry import Retried
    from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
#: a JobSpec, the same as plain data, or the path of a spec file
SpecLike = JobSpec | Mapping[str, Any] | str | Path


class JobTimeoutError(ParquetryError, TimeoutError):
    """Job {job} is still {state} after {seconds:g} s; it goes on, and may be waited for again."""


class BrokerGoneError(UnusableEnvironmentError):
    """Job {job} ran on the broker of its own run, which has ended; call parquetry.run again to continue it."""


def submit(spec: SpecLike, *, broker_url: str | None = None) -> Job:
    """Register a job with the broker (PARQUETRY_BROKER_URL by default); `parquetry worker` processes run it.

    The same spec submitted again is the same job. Raises a BadInputError for a spec that cannot run.
    """
    from parquetry.producers.submission import submit as register
    from parquetry.tasks.budget_change import raise_budget

    ledger = open_ledger(broker_url)
    for sentence in ledger.durability_warnings():
        log.warning("%s", sentence)
    made = register(as_spec(spec), ledger, broker_url=broker_url)
    if not made.created:
        raise_budget(ledger, made.job, as_spec(spec).budget)
    return Job(made.job, made.record.spec.output.path, ledger, is_new=made.created, rows_added=made.rows_added)


def run(
    spec: SpecLike, *, workers: int | None = None, show: bool = False, retry_rows: Mapping[str, Any] | None = None
) -> Job:
    """Run a whole job on this machine and return when it has ended. What is done already is not done again.

    Args:
        spec: the job.
        workers: CPU engines to start; by default one engine per visible GPU, or one on the CPU.
        show: draw progress on stderr.
        retry_rows: compute the error rows of the job, which has ended, anew, with these settings for them by dotted
            key, as in {"generation.max_new_tokens": 512}; {} changes none.

    """
    from parquetry.local.run import run_job

    finished = run_job(as_spec(spec), workers=workers, show=show, retry=retry_rows)
    return Job(finished.status.job, finished.status.output, finished.ledger, finished)


def plan(
    spec: SpecLike,
    *,
    card: str | None = None,
    gpus: int = 1,
    price_per_gpu_hour: float | None = None,
    measured: MeasuredRows | None = None,
) -> Plan:
    """A job's rows, shards, estimated tokens and memory; its time and cost on `gpus` cards, by earlier jobs like it.

    Nothing is written, and no broker is needed; where one is configured, its workers and what its jobs have told count.

    Args:
        spec: the job.
        card: another card than theirs or this machine's, such as "h100". Raises UnknownCardError.
        gpus: how many the job is to have.
        price_per_gpu_hour: by default that of the job's budget.
        measured: rows of the job that were computed for real, which tell more than earlier jobs.

    """
    from parquetry.evidence import gather_evidence
    from parquetry.producers.plan.planning import plan as made

    known = gather_evidence(card)
    found = made(
        as_spec(spec),
        target=known.target,
        paces=known.paces,
        measured=measured,
        gpus=gpus,
        price_per_gpu_hour=price_per_gpu_hour,
    )
    return found.model_copy(update={"warnings": (*found.warnings, *known.problems)})


def preview(spec: SpecLike, rows: int) -> pa.Table:
    """The output of the job's first `rows` rows, run for real on this machine and kept nowhere."""
    from parquetry.local.preview import preview_rows

    return preview_rows(as_spec(spec), rows).table


def recover(output: str, *, broker_url: str | None = None) -> Job:
    """Rebuild the job of an output folder in a broker that knows nothing of it: finished shards stay finished."""
    from parquetry.tasks.recovery import recover as rebuild

    ledger = open_ledger(broker_url)
    record = rebuild(output, ledger)
    return Job(record.job, record.spec.output.path, ledger)


def job_views(*, broker_url: str | None = None) -> list[JobView]:
    """Every job of the broker with its phase and progress, newest first."""
    from parquetry.monitor.job_view import JobView

    ledger = open_ledger(broker_url)
    workers = ledger.workers()
    return [JobView.of(status, workers) for status in ledger.jobs()]


def jobs(*, broker_url: str | None = None) -> list[JobStatus]:
    """Every job of the broker, newest first, without the reasons of failed shards."""
    return open_ledger(broker_url).jobs()


def live_workers(*, broker_url: str | None = None) -> list[WorkerStatus]:
    """The workers that the broker has heard of lately."""
    return open_ledger(broker_url).workers()


def as_spec(spec: SpecLike) -> JobSpec:
    """The validated spec. Raises a BadInputError naming the first thing that is off."""
    if isinstance(spec, JobSpec):
        return spec
    return load_spec(Path(spec)) if isinstance(spec, str | Path) else JobSpec.parse(spec)


@dataclass(frozen=True, repr=False)
class Job:
    """One job: its state in the broker, its output in storage."""

    id: str
    #: folder or URI the parts are written to
    output: str
    #: None once the broker of a `run` has stopped
    _ledger: Ledger | None
    #: how the job ended on this machine; None unless it came from `run`
    finished: FinishedRun | None = None
    #: False where `submit` found this very job in the output
    is_new: bool = False
    #: rows by which `submit` has extended the job in the output
    rows_added: int = 0

    @classmethod
    def open(cls, job: str, *, broker_url: str | None = None) -> Job:
        """The job of this id, unique beginning of an id, or name; `@last` is the newest.

        Raises UnknownJobError, AmbiguousJobError.
        """
        ledger = open_ledger(broker_url)
        status = ledger.status(ledger.find(job))
        return cls(status.job, status.output, ledger)

    def __repr__(self) -> str:
        return f"Job({self.id!r}, output={self.output!r})"

    def status(self) -> JobStatus:
        """The job's numbers now; after a `run` on its own broker, its last ones."""
        if self._ledger is None and self.finished is not None:
            return self.finished.status
        return self._open_ledger().status(self.id)

    def view(self) -> JobView:
        """The job's numbers now with its phase, rates and the time left."""
        from parquetry.monitor.observer import look

        return look(self._open_ledger(), self.id)

    def follow_views(self, poll_s: float = 1.0) -> Iterator[JobView]:
        """The same, again every `poll_s` seconds; the last one is how the job ended."""
        from parquetry.monitor.watcher import Watcher

        watcher = Watcher(self._open_ledger())
        return map(watcher.view, self.follow(poll_s))

    def follow(self, poll_s: float = 1.0) -> Iterator[JobStatus]:
        """The job's numbers, again every `poll_s` seconds; the last ones are those it ended with."""
        while not (status := self.status()).state.is_final:
            yield status
            time.sleep(poll_s)
        yield status

    def wait(self, timeout: float | None = None, poll_s: float = 1.0) -> JobStatus:
        """Block until the job is done, failed or cancelled, and return how it ended. Raises JobTimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for status in self.follow(poll_s):
            if not status.state.is_final and deadline is not None and time.monotonic() >= deadline:
                raise JobTimeoutError(job=self.id, state=status.state, seconds=timeout)
        return status

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The output committed so far, in input order; the whole of it once the job is done."""
        from parquetry.output import read_output

        return read_output(self.output, columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """The same as a DataFrame, with the index of the input where it is kept. Raises MissingPackageError."""
        require("pandas", feature="Job.to_pandas")
        return self.to_table(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """The same as a polars DataFrame. Raises MissingPackageError."""
        require("polars", feature="Job.to_polars")
        import polars

        return polars.from_arrow(self.to_table(columns))

    def pause(self) -> None:
        """Stop handing out shards; running ones are given back within a beat."""
        self._open_ledger().set_state(self.id, JobState.PAUSED)

    def resume(self, budget: Mapping[str, float] | None = None) -> None:
        """Go on after a pause or a cancel, with another `budget` where one is given, as in a spec.

        What it leaves out of the price stays. Raises BudgetSpentError where it is spent, IllegalTransitionError.
        """
        if budget is not None:
            from parquetry.tasks.budget_change import change_budget

            price = self.status().price_per_gpu_hour
            known = {} if price is None else {"price_per_gpu_hour": price}
            change_budget(self._open_ledger(), self.id, parse_budget({**known, **budget}))
        self._open_ledger().set_state(self.id, JobState.RUNNING)

    def cancel(self) -> None:
        """Stop for good; committed parts stay."""
        from parquetry.tasks.cancellation import cancel

        cancel(self._open_ledger(), self.id, self.output)

    def prioritize(self, priority: int) -> None:
        """Let the job go before others or after them, 0 (first) to 9, from the next shard on."""
        if not 0 <= priority <= 9:
            raise InvalidValueError(key="priority", value=priority, reason="it is a number from 0 (first) to 9")
        self._open_ledger().prioritize(self.id, priority)

    def retry(self) -> None:
        """Queue the failed shards again."""
        self._open_ledger().retry(self.id)

    def retry_rows(self, changes: Mapping[str, Any] = MappingProxyType({})) -> Retried:
        """Compute the error rows of a job that has ended anew, and merge them into the output; the others stay.

        `changes` are settings for these rows alone, by dotted key: {"generation.max_new_tokens": 512}. Raises a
        BadInputError for changes that the output has no room for, and for a job that has not ended.
        """
        from parquetry.local.run import begin_row_retry

        return begin_row_retry(self._open_ledger(), self.id, changes, broker_url=settings().broker_url)

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            raise BrokerGoneError(job=self.id)
        return self._ledger
