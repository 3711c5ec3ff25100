"""Jobs in the ledger: entered, told of, stopped and resumed, dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import cast

from redis.exceptions import ResponseError

from parquetry.schemas.errors import BrokerRefusedError, BudgetSpentError, IllegalTransitionError
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.progress.history import HistoryPoint, KeptBudget
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.progress.states import JOB_TRANSITIONS, JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.budget import BudgetSpec, budget_text
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import DIGESTS_PER_KEY
from parquetry.tasks.ledger import job_entry
from parquetry.tasks.ledger.history import MAX_POINTS_DONE
from parquetry.tasks.ledger.job_names import JobNames
from parquetry.tasks.ledger.leases import MAX_REASON
from parquetry.tasks.ledger.pending import pending_items, to_bitmap


class Jobs(JobNames):
    """The verbs of whoever submits jobs and looks at them."""

    def register(
        self,
        record: JobRecord,
        queue: str = "default",
        done: Iterable[PartRecord] = (),
        history: Sequence[HistoryPoint] = (),
        budget: KeptBudget | None = None,
    ) -> bool:
        """Enter a job whose `done` parts are committed, with the `history` that it had and the `budget` it was given.

        False, and nothing changed, when it is known already.
        """
        done = list(done)
        shards = {part.shard for part in done}
        items = list(pending_items(record.shard_plan.num_shards, shards))
        fields = job_entry.ctl_fields(record, queue, done) | ({} if budget is None else job_entry.budget_fields(budget))
        flat = [item for pair in fields.items() for item in pair]
        args = (to_bitmap(shards), len(items), *items, *flat)
        created = bool(self._job("register", record.job, *args))
        if created:
            self.digests.put(record.job, done)
            self.histories.restore(record.job, history)
        return created

    def set_state(self, job: str, wanted: JobState, *, num_shards: int | None = None) -> JobState:
        """Returns the state before; with `num_shards` only for a job that has so many.

        Raises UnknownJobError, IllegalTransitionError, BudgetSpentError.
        """
        sources = [state for state, targets in JOB_TRANSITIONS.items() if wanted in targets]
        expected = "" if num_shards is None else num_shards
        reply = self._job("progress/set_state", job, wanted, int(wanted.is_final), expected, *sources)
        if reply is None:
            raise self._unknown(job)
        legal, before = reply
        if before == "spent":
            raise self._spent(job)
        if not legal:
            raise IllegalTransitionError(job=job, state=before, wanted=wanted)
        return JobState(before)

    def require_budget(self, status: JobStatus) -> None:
        """Raise BudgetSpentError where a job that has not ended has nothing left to spend."""
        budget = status.budget_gpu_seconds
        if budget is not None and status.gpu_seconds >= budget and status.state is not JobState.DONE:
            raise self._spent(status.job)

    def _spent(self, job: str) -> BudgetSpentError:
        status = self.status(job, max_failures=0)
        budget, spent = status.budget_gpu_seconds or 0.0, status.gpu_seconds
        more = 2 * max(budget, spent) / 3600
        key = "gpu_hours" if status.price_per_gpu_hour is None else "money"
        return BudgetSpentError(
            job=job, budget=budget_text(status), key=key, more=f"{more * (status.price_per_gpu_hour or 1.0):.3g}"
        )

    def set_budget(self, job: str, budget: BudgetSpec | None) -> None:
        """Give a job another budget, or none; a paused one is resumed by whoever wants it to go on.

        Raises UnknownJobError.
        """
        if self._job("set_budget", job, *job_entry.budget_fields(budget).values()) is None:
            raise self._unknown(job)

    def set_prediction(self, job: str, prediction: Prediction) -> None:
        """Store what was predicted of a job with it. Raises UnknownJobError."""
        if self._job("set_prediction", job, prediction.model_dump_json()) is None:
            raise self._unknown(job)

    def prioritize(self, job: str, priority: int) -> int:
        """Change a job's priority, 0 (first) to 9; returns the one before. Raises UnknownJobError."""
        before = self._job("prioritize", job, priority)
        if before is None:
            raise self._unknown(job)
        return int(before)

    def note_stall(self, job: str, why: str, patience_s: float) -> bool:
        """Note that a running job is stalled, or with "" that it is not; whether it was told of, being so for long."""
        return bool(self._job("stall", job, why, int(patience_s * 1000)))

    def extend(self, record: JobRecord) -> int:
        """Queue the shards that the record has beyond those known; a job that had ended runs again. How many there are.

        Raises UnknownJobError.
        """
        plan, notify = record.shard_plan, "\n".join(record.spec.notify)
        count = self._job("extend", record.job, plan.num_shards, plan.num_rows, notify, record.digest)
        if count is None:
            raise self._unknown(record.job)
        return count

    def retry(self, job: str) -> int:
        """Queue failed shards again; how many. Raises UnknownJobError."""
        count = self._job("retry", job)
        if count is None:
            raise self._unknown(job)
        return count

    def refuse(self, job: str, reason: str) -> bool:
        """End a job as failed for a reason that is no shard's; False when it has ended already."""
        return bool(self._job("progress/refuse", job, reason[:MAX_REASON]))

    def record_digest(self, job: str) -> str:
        """Of the job's record as it was registered; empty where the queue does not know."""
        with translated(self.url):
            return cast("str | None", self._client.hget(self._keys.of_job(job, "ctl"), "record")) or ""

    def status(self, job: str, *, max_failures: int = job_entry.MAX_FAILURES) -> JobStatus:
        """Raises UnknownJobError. A job whose record is damaged has `damage`."""
        status = self._status(job, max_failures)
        if status is None:
            raise self._unknown(job)
        return status

    def _status(self, job: str, max_failures: int) -> JobStatus | None:
        try:
            reply = self._job("progress/status", job, max_failures)
            return None if reply is None else job_entry.read_status(job, reply)
        except (BrokerRefusedError, KeyError, ValueError, TypeError) as error:
            # one damaged job must not keep anybody from seeing the others
            return job_entry.damaged_status(job, self._now(), f"{type(error).__name__}: {error}")

    def _now(self) -> float:
        with translated(self.url):
            seconds, microseconds = self._client.time()
        return seconds + microseconds / 1e6

    def jobs(self) -> list[JobStatus]:
        """Every job, the newest first."""
        found = (self._status(job, 0) for job in self.job_names())
        return [status for status in found if status is not None]

    def job_names_before(self, age_s: float) -> list[str]:
        """The ids of jobs registered at least so long ago."""
        before_ms = int((self._now() - age_s) * 1000)
        with translated(self.url):
            found = self._client.zrangebyscore(self._keys.jobs, "-inf", before_ms)
            return cast("list[str]", found)

    def forget(self, job: str) -> None:
        """Drop the keys that a job needs no more once it is done: what was pending, leases, attempts, digests."""
        self._job("progress/forget", job, MAX_POINTS_DONE, more_keys=self._digest_keys(job))

    def remove(self, job: str, *, ended_s: float | None = None, created: float | None = None) -> bool:
        """Drop the job; its output stays, and whoever runs a shard of it has lost its lease.

        With `ended_s` only when it ended that long ago, with `created` (`JobStatus.created`, seconds) only when it has
        not been registered anew since; False when it was left alone.
        """
        age_ms = -1 if ended_s is None else int(ended_s * 1000)
        created_ms = "" if created is None else round(created * 1000)
        return bool(self._job("remove", job, age_ms, created_ms, more_keys=self._digest_keys(job)))

    def _digest_keys(self, job: str) -> list[str]:
        with translated(self.url):
            shards = self._num_shards(job)
        return [self._keys.digests(job, first) for first in range(0, shards, DIGESTS_PER_KEY)]

    def _num_shards(self, job: str) -> int:
        """0 where a damaged record does not tell."""
        with suppress(ResponseError, ValueError):
            return int(self._client.hget(self._keys.of_job(job, "ctl"), "shards") or 0)
        return 0
