"""Webhook notices of ended jobs: written by the script that ends the job, handed out until they are delivered."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.schemas.states import JobState
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.scripts import Scripts

FIRST_REST_MS = 30_000
LONGEST_REST_MS = 3_600_000


@dataclass(frozen=True)
class Notice:
    """One URL to be told of one end of one job."""

    job: str
    state: JobState
    #: ms since the Unix epoch, on the clock of Redis
    ended_ms: int
    url: str
    #: how often it was taken, this time included
    tries: int

    @property
    def id(self) -> str:
        """The same at every try, so that a receiver can tell a repetition."""
        return f"{self.job}-{self.state}-{self.ended_ms}"

    @property
    def member(self) -> str:
        return f"{self.job} {self.state} {self.ended_ms} {self.url}"


class Outbox:
    """The notices that wait for delivery. Every verb raises BrokerUnreachableError."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = [keys.outbox, keys.outbox_tries]

    def take(self, *, ahead_s: int = 0) -> Notice | None:
        """A notice that is due, or will be in `ahead_s`; it is handed out again later, until `done`."""
        reply = self._scripts("outbox_take", self._keys, [FIRST_REST_MS, LONGEST_REST_MS, ahead_s])
        if reply is None:
            return None
        member, tries = reply
        job, state, ended, url = member.split(" ", 3)
        return Notice(job, JobState(state), int(ended), url, tries)

    def done(self, notice: Notice) -> None:
        """Delivered, or given up."""
        with translated(self._scripts.url), self._scripts.client.pipeline() as pipe:
            pipe.zrem(self._keys[0], notice.member)
            pipe.hdel(self._keys[1], notice.member)
            pipe.execute()

    def drop(self, job: str) -> None:
        """Forget every notice of a job."""
        with translated(self._scripts.url):
            found = [member for member, _ in self._scripts.client.zscan_iter(self._keys[0], f"{job} *")]
            if found:
                self._scripts.client.zrem(self._keys[0], *found)
                self._scripts.client.hdel(self._keys[1], *found)
