"""A job as Python holds it: its numbers, its rows, and what may be done with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

from parquetry.api.job_output import JobOutput
from parquetry.schemas.errors import InvalidValueError, ParquetryError, UnusableEnvironmentError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.spec.budget import parse_budget

if TYPE_CHECKING:
    from parquetry.local.run import FinishedRun
    from parquetry.local.site import Revivable
    from parquetry.monitor.job_view import JobView
    from parquetry.producers.row_retry import Retried
    from parquetry.schemas.progress.status import JobStatus
    from parquetry.tasks.ledger.ledger import Ledger
    from parquetry.tasks.report.error_groups import ErrorGroup


class JobTimeoutError(ParquetryError, TimeoutError):
    """Job {job} is still {state} after {seconds:g} s; it goes on, and may be waited for again."""


class BrokerGoneError(UnusableEnvironmentError):
    """Job {job} ran on the broker of its own run, which has ended; call parquetry.run again to continue it."""


@dataclass(frozen=True, repr=False)
class Job(JobOutput):
    """One job: its state in the broker, its output in storage. `await job` waits for its end."""

    #: None once the broker of a `run` has stopped
    _ledger: Ledger | None
    #: of its broker
    url: str | None = None
    #: how the job ended on this machine; None unless it came from `run`
    finished: FinishedRun | None = None
    #: False where `submit` found this very job in the output
    is_new: bool = False
    #: rows by which `submit` has extended the job in the output
    rows_added: int = 0
    #: the worker of this process that computes it; whoever follows the job sees to it
    worker: Revivable | None = None

    def __repr__(self) -> str:
        return f"Job({self.id!r}, output={self.output!r})"

    def _repr_html_(self) -> str | None:
        from parquetry.notebook.page import job_html

        # where the broker cannot be asked, a notebook shows the plain name
        with suppress(ParquetryError):
            return job_html(self.view())
        return None

    def __await__(self) -> Generator[Any, None, JobStatus]:
        return self._ended().__await__()

    async def _ended(self, poll_s: float = 1.0) -> JobStatus:
        while not (status := await asyncio.to_thread(self._seen_to)).state.is_final:
            await asyncio.sleep(poll_s)
        return status

    def status(self) -> JobStatus:
        """The job's numbers now; after a `run` whose broker has ended, its last ones."""
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
        while not (status := self._seen_to()).state.is_final:
            yield status
            time.sleep(poll_s)
        yield status

    def _seen_to(self) -> JobStatus:
        """Its numbers now; a worker of ours that has died is started again. Raises WorkerDiedError."""
        status = self.status()
        if self.worker is not None and not status.state.is_final:
            self.worker.revive(status.rows_done)
        return status

    def wait(self, timeout: float | None = None, poll_s: float = 1.0) -> JobStatus:
        """Block until the job is done, failed or cancelled, and return how it ended. Raises JobTimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for status in self.follow(poll_s):
            if not status.state.is_final and deadline is not None and time.monotonic() >= deadline:
                raise JobTimeoutError(job=self.id, state=status.state, seconds=timeout)
        return status

    def stream(self, columns: Sequence[str] | None = None, poll_s: float = 1.0) -> Iterator[dict[str, Any]]:
        """Every row as soon as its shard is committed; `row` says where in the input it stands. Ends with the job.

        Raises JobNotDoneError behind the last row of a job that has failed or was cancelled.
        """
        from parquetry.api.stream import committed_tables

        for table in committed_tables(self.follow(poll_s), columns):
            yield from table.to_pylist()

    def errors(self) -> list[ErrorGroup]:
        """The error rows of its committed parts by reason, the most frequent first, some of each in full."""
        from parquetry.finished_work import FinishedWork

        return FinishedWork.of_job(self.id, self.output, self._ledger).errors()

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

    @overload
    def retry(self, *, rows: Literal[False] = False) -> None: ...
    @overload
    def retry(self, *, rows: Literal[True], changes: Mapping[str, Any] = ...) -> Retried: ...
    def retry(self, *, rows: bool = False, changes: Mapping[str, Any] = MappingProxyType({})) -> Retried | None:
        """Queue the failed shards again; with `rows`, compute the error rows of a job that has ended anew instead.

        What comes of these rows is merged into the output; the others stay. `changes` are settings for them alone, by
        dotted key: {"generation.max_new_tokens": 512}. Raises a BadInputError for changes that the output has no room
        for, and for error rows of a job that has not ended.
        """
        if rows:
            from parquetry.local.run import begin_row_retry

            return begin_row_retry(self._open_ledger(), self.id, changes, broker_url=self.url)
        self._open_ledger().retry(self.id)
        return None

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            raise BrokerGoneError(job=self.id)
        return self._ledger
