"""Names of every Redis key we own, and nothing else; what each holds is told in the preludes of the Lua scripts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

#: what there is of each job, digests aside
JOB_KEYS = ("ctl", "pend", "lease", "tok", "done", "att", "bad", "run", "past", "late", "errs", "evts", "ends", "redo")
#: committed shards whose digests share one string; bounds the size of a value
DIGESTS_PER_KEY = 4096


def celery_queue(queue: str) -> str:
    """The Celery queue whose messages are the permits of `queue`; the dot keeps it apart from our own keys."""
    return f"permits.{queue}"


@dataclass(frozen=True)
class Keys:
    """The keys of one environment. The job stands in braces, so that its keys hash together."""

    env: str

    @cached_property
    def prefix(self) -> str:
        return f"pq:{self.env}:"

    @property
    def jobs(self) -> str:
        """ZSET of every job by creation time."""
        return f"{self.prefix}jobs"

    @property
    def open(self) -> str:
        """ZSET of jobs that run and have pending shards, by priority."""
        return f"{self.prefix}open"

    @property
    def live(self) -> str:
        """SET of jobs that may be unfinished."""
        return f"{self.prefix}live"

    @property
    def workers(self) -> str:
        """ZSET of workers by last sign of life."""
        return f"{self.prefix}workers"

    @property
    def paces(self) -> str:
        """ZSET of what jobs that are done tell of their pace, by when they ended."""
        return f"{self.prefix}paces"

    @property
    def outbox(self) -> str:
        """ZSET of notices for webhooks, by when they are due."""
        return f"{self.prefix}outbox"

    @property
    def outbox_tries(self) -> str:
        """HASH of how often each notice was tried."""
        return f"{self.prefix}outbox:tries"

    @property
    def hooks(self) -> str:
        """ZSET of notices for the hooks of operators, the last ones."""
        return f"{self.outbox}:hook"

    @property
    def hook_tries(self) -> str:
        """HASH of how often each of them was tried."""
        return f"{self.hooks}:tries"

    def permits(self, queue: str) -> str:
        """LIST of the permits that wait, as kombu keeps them."""
        return self.prefix + celery_queue(queue)

    def worker(self, name: str) -> str:
        """HASH of one worker: host, device, queues, shards in flight, model, counts of its engine."""
        return f"{self.prefix}worker:{name}"

    def lock(self, name: str) -> str:
        """STRING holding the token of whoever has this lock."""
        return f"{self.prefix}lock:{name}"

    def of_job(self, job: str, name: str) -> str:
        return f"{self.prefix}{{{job}}}:{name}"

    def job(self, job: str) -> list[str]:
        """The keys of a script about one job, in the order in which ledger/lua/job/prelude.lua names them."""
        return [*(self.of_job(job, name) for name in JOB_KEYS), self.open, self.live, self.jobs, self.outbox]

    def digests(self, job: str, shard: int) -> str:
        """STRING of fixed-width commit digests of DIGESTS_PER_KEY neighbouring shards."""
        return self.of_job(job, f"dig:{shard // DIGESTS_PER_KEY}")
