"""Names of every Redis key we own, and nothing else; what each holds is told at the top of the Lua scripts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

#: the order in which scripts that work on one job get its keys
JOB_KEYS = ("ctl", "pend", "lease", "tok", "done", "att", "bad", "run")
#: committed shards whose digests share one string; bounds the size of a value
DIGESTS_PER_KEY = 4096


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
        """SET of jobs that may still need somebody."""
        return f"{self.prefix}live"

    @property
    def workers(self) -> str:
        """ZSET of workers by last sign of life."""
        return f"{self.prefix}workers"

    @property
    def outbox(self) -> str:
        """ZSET of notices for webhooks, by when they are due."""
        return f"{self.prefix}outbox"

    @property
    def outbox_tries(self) -> str:
        """HASH of how often each notice was tried."""
        return f"{self.prefix}outbox:tries"

    def worker(self, name: str) -> str:
        """HASH of one worker: host, device, queues, slots, model."""
        return f"{self.prefix}worker:{name}"

    def lock(self, name: str) -> str:
        """STRING holding the token of whoever has this lock."""
        return f"{self.prefix}lock:{name}"

    def of_job(self, job: str, name: str) -> str:
        return f"{self.prefix}{{{job}}}:{name}"

    def job(self, job: str) -> list[str]:
        """The job's keys in the order of JOB_KEYS, then the two indexes of jobs."""
        return [*(self.of_job(job, name) for name in JOB_KEYS), self.open, self.live]

    def digests(self, job: str, shard: int) -> str:
        """STRING of fixed-width commit digests of DIGESTS_PER_KEY neighbouring shards."""
        return self.of_job(job, f"dig:{shard // DIGESTS_PER_KEY}")
