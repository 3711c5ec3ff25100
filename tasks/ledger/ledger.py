"""The ledger: the state of every job in Redis, changed by Lua scripts alone, on the clock of Redis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import redis

from parquetry.schemas.errors import IllegalTransitionError, UnknownJobError, suggestion
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.states import JOB_TRANSITIONS, JobState
from parquetry.schemas.status import JobStatus, WorkerStatus
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.broker.settings_check import durability_warnings
from parquetry.tasks.keys import DIGESTS_PER_KEY, Keys
from parquetry.tasks.ledger import job_entry
from parquetry.tasks.ledger.claim import (
    Audit,
    BeatReply,
    Claim,
    CommitReply,
    Digest,
    LeaseProgress,
    PrepareReply,
    Reaped,
    ReleaseReply,
    Unfinished,
)
from parquetry.tasks.ledger.digests import Digests
from parquetry.tasks.ledger.lock import lock
from parquetry.tasks.ledger.outbox import Outbox
from parquetry.tasks.ledger.pending import from_bitmap, pending_items, to_bitmap
from parquetry.tasks.ledger.policy import Policy
from parquetry.tasks.ledger.roster import Roster
from parquetry.tasks.ledger.scripts import Scripts

#: reasons are shown, not parsed
MAX_REASON = 500
REAP_AT_ONCE = 1000


class Ledger:
    """Every verb that changes something is one script, so it happens wholly or not at all.

    All of them raise BrokerUnreachableError; the verb may have happened then, and may be repeated.
    """

    def __init__(self, client: redis.Redis, env: str, policy: Policy | None = None) -> None:
        self.env = env
        self.policy = policy or Policy.of()
        self._client = client
        self._keys = Keys(env)
        self._scripts = Scripts(client)
        self.roster = Roster(self._scripts, self._keys)
        self.outbox = Outbox(self._scripts, self._keys)
        self.digests = Digests(client, self._scripts.url, self._keys)

    def _job(self, name: str, job: str, *args: Any, more_keys: Sequence[str] = ()) -> Any:
        return self._scripts(f"job/{name}", [*self._keys.job(job), *more_keys], [job, *args])

    @property
    def url(self) -> str:
        """Where it is, without its password."""
        return self._scripts.url

    def durability_warnings(self) -> list[str]:
        """A sentence for each way in which this broker may forget jobs."""
        return durability_warnings(self._client)

    def lock(self, name: str, ttl_s: float) -> AbstractContextManager[bool]:
        """A context that says whether we got the lock; it never waits, and the lock ends by itself after `ttl_s`."""
        return lock(self._scripts, self._keys, name, ttl_s)

    def permits(self, queue: str) -> int:
        """Permits of a queue that wait in the broker."""
        with translated(self.url):
            return self._client.llen(self._keys.permits(queue))

    # jobs

    def register(self, record: JobRecord, queue: str = "default", done: Iterable[PartRecord] = ()) -> bool:
        """Enter a job whose `done` parts are committed. False, and nothing changed, when it is known already."""
        done = list(done)
        shards = {part.shard for part in done}
        items = list(pending_items(record.shard_plan.num_shards, shards))
        fields = job_entry.ctl_fields(record, queue, done)
        flat = [item for pair in fields.items() for item in pair]
        args = (to_bitmap(shards), len(items), *items, *flat)
        created = bool(self._job("register", record.job, *args))
        if created:
            self.digests.put(record.job, done)
        return created

    def set_state(self, job: str, wanted: JobState) -> JobState:
        """Returns the state before. Raises UnknownJobError, IllegalTransitionError."""
        sources = [state for state, targets in JOB_TRANSITIONS.items() if wanted in targets]
        reply = self._job("set_state", job, wanted, int(wanted.is_final), *sources)
        if reply is None:
            raise self._unknown(job)
        legal, before = reply
        if not legal:
            raise IllegalTransitionError(job=job, state=before, wanted=wanted)
        return JobState(before)

    def retry(self, job: str) -> int:
        """Queue failed shards again; how many. Raises UnknownJobError."""
        count = self._job("retry", job)
        if count is None:
            raise self._unknown(job)
        return count

    def status(self, job: str, *, max_failures: int = job_entry.MAX_FAILURES) -> JobStatus:
        """Raises UnknownJobError."""
        reply = self._job("status", job, max_failures)
        if reply is None:
            raise self._unknown(job)
        return job_entry.read_status(job, reply)

    def jobs(self) -> list[JobStatus]:
        """Every job, the newest first."""
        replies = ((job, self._job("status", job, 0)) for job in self.job_names())
        return [job_entry.read_status(job, reply) for job, reply in replies if reply is not None]

    def job_names(self) -> list[str]:
        """Every job's id, the newest first."""
        with translated(self.url):
            return cast("list[str]", self._client.zrevrange(self._keys.jobs, 0, -1))

    def job_names_before(self, age_s: float) -> list[str]:
        """The ids of jobs registered at least so long ago."""
        with translated(self.url):
            seconds, _ = self._client.time()
            found = self._client.zrangebyscore(self._keys.jobs, "-inf", int((seconds - age_s) * 1000))
            return cast("list[str]", found)

    def workers(self) -> list[WorkerStatus]:
        """The living workers."""
        return self.roster.alive()

    def _unknown(self, job: str) -> UnknownJobError:
        return UnknownJobError(job=job, suggestion=suggestion(job, self.job_names()))

    # shards

    def claim(self, worker: str, queues: Sequence[str]) -> Claim | None:
        """Lease a shard to a worker; None when these queues have no pending shard.

        Chosen by priority, then by the engine of this worker's last claim and by its weights, which are loaded, then by
        fair share; see claim.lua for the bound on waiting.
        """
        keys = [self._keys.open, self._keys.worker(worker)]
        limits = (self.policy.lease_ms, int(self.policy.starvation_s * 1000))
        reply = self._scripts("claim", keys, [self._keys.prefix, worker, *limits, *queues])
        if reply is None:
            return None
        job, shard, fence, lost, output, _deadline = reply
        return Claim(job=job, shard=int(shard), fence=int(fence), worker=worker, output=output, lost=int(lost))

    def beat(self, claim: Claim, progress: LeaseProgress = LeaseProgress()) -> BeatReply:  # noqa: B008  (frozen)
        """Renew the lease and tell how far the shard is."""
        numbers = (progress.rows, progress.tokens)
        return BeatReply(self._job("beat", claim.job, claim.shard, claim.token, self.policy.lease_ms, *numbers))

    def prepare(self, claim: Claim) -> PrepareReply:
        """Whether the claim's holder may publish its part; without an answer it may not."""
        return PrepareReply(self._job("prepare", claim.job, claim.shard, claim.token, self.policy.prepare_ms))

    def commit(self, claim: Claim, part: PartRecord) -> CommitReply:
        """Count the part that the claim's holder has published."""
        return self._commit(claim.job, claim.token, False, part)

    def adopt(self, job: str, part: PartRecord) -> CommitReply:
        """Count a part that was found in storage and verified: that is the truth, whoever holds the lease."""
        return self._commit(job, "", True, part)

    def _commit(self, job: str, token: str, verified: bool, part: PartRecord) -> CommitReply:
        numbers = (part.rows, part.error_rows, part.prompt_tokens, part.output_tokens)
        digest = (part.shard % DIGESTS_PER_KEY * Digest.num_bytes, Digest.of(part).pack())
        more_keys = [self._keys.digests(job, part.shard)]
        reply = self._job("commit", job, part.shard, token, int(verified), *numbers, *digest, more_keys=more_keys)
        return CommitReply(reply)

    def release(self, claim: Claim) -> ReleaseReply:
        """Give the shard back; the attempt does not count."""
        return self._release(claim, 0, "", 0.0)

    def lose(self, claim: Claim, reason: str, *, rest_s: float = 0.0) -> ReleaseReply:
        """Give the shard back after a fault; it is set aside when its attempts are used up."""
        return self._release(claim, self.policy.loss_limit, reason, rest_s)

    def _release(self, claim: Claim, limit: int, reason: str, rest_s: float) -> ReleaseReply:
        rest = (limit, reason[:MAX_REASON], int(rest_s * 1000))
        return ReleaseReply(self._job("release", claim.job, claim.shard, claim.token, *rest))

    def fail(self, claim: Claim, reason: str) -> ReleaseReply:
        """Set the shard aside for good."""
        return ReleaseReply(self._job("fail", claim.job, claim.shard, claim.token, reason[:MAX_REASON]))

    # repair

    def reap(self, job: str) -> Reaped:
        """Take back the job's expired leases."""
        lost, failed, rested = self._job("reap", job, self.policy.loss_limit, REAP_AT_ONCE)
        return Reaped(lost=lost, failed=failed, rested=rested)

    def audit(self, job: str) -> Audit:
        """Repair counters, and queue shards that are neither pending, leased, committed nor failed.

        Raises UnknownJobError.
        """
        reply = self._job("audit", job)
        if reply is None:
            raise self._unknown(job)
        return Audit(done_off=reply[0], put_back=reply[1])

    def census(self) -> list[Unfinished]:
        """Every unfinished job: running, paused, or ended with leases out."""
        flat = iter(self._scripts("census", [self._keys.live], [self._keys.prefix]))
        rows = zip(flat, flat, flat, flat, flat, strict=True)
        return [Unfinished(job=j, queue=q, state=s, pending=int(p), left=int(n)) for j, q, s, p, n in rows]

    def pending(self, queue: str) -> int:
        """Shards of a queue's running jobs that wait for a worker."""
        return sum(entry.pending for entry in self.census() if entry.queue == queue)

    def holdings(self, worker: str) -> list[Claim]:
        """The leases a worker holds."""
        return [claim for entry in self.census() for claim in self._held(entry.job, worker)]

    def _held(self, job: str, worker: str) -> list[Claim]:
        with translated(self.url):
            tokens = cast("dict[str, str]", self._client.hgetall(self._keys.of_job(job, "tok")))
        split = ((shard, *token.split(":", 1)) for shard, token in tokens.items())
        return [
            Claim(job=job, shard=int(shard), fence=int(fence), worker=worker, output="")
            for shard, fence, holder in split
            if holder == worker
        ]

    def committed(self, job: str) -> set[int]:
        """The shards that are counted as committed."""
        with translated(self.url):
            bitmap = self._client.execute_command("GET", self._keys.of_job(job, "done"), NEVER_DECODE=True)
        return from_bitmap(bitmap or b"")

    def reopen(self, job: str, shard: int, rows: int) -> bool:
        """Queue a committed shard again because its part has vanished from storage."""
        error_rows = self.digests.error_rows(job, shard)
        digest = (shard % DIGESTS_PER_KEY * Digest.num_bytes, bytes(Digest.num_bytes))
        more_keys = [self._keys.digests(job, shard)]
        return bool(self._job("reopen", job, shard, rows, error_rows, *digest, more_keys=more_keys))

    def forget(self, job: str) -> None:
        """Drop the keys that a job needs no more once it is done: what was pending, leases, attempts, digests."""
        self._job("forget", job, more_keys=self._digest_keys(job))

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
            shards = int(self._client.hget(self._keys.of_job(job, "ctl"), "shards") or 0)
        return [self._keys.digests(job, first) for first in range(0, shards, DIGESTS_PER_KEY)]
