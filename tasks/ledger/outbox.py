"""Notices of what happens to jobs: written by the script that does it, handed out until they are delivered."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.schemas.progress.states import JobPhase
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.ledger.scripts import Scripts

FIRST_REST_MS = 30_000
LONGEST_REST_MS = 3_600_000


@dataclass(frozen=True)
class Notice:
    """One URL, or the hook of operators, to be told of one event of one job."""

    job: str
    #: done, failed or cancelled, stalled, or paused where its budget is spent
    event: JobPhase
    #: ms since the Unix epoch, on the clock of Redis
    at_ms: int
    url: str
    #: how often it was taken, this time included
    tries: int

    @property
    def id(self) -> str:
        """The same at every try, so that a receiver can tell a repetition."""
        return f"{self.job}-{self.event}-{self.at_ms}"

    @property
    def member(self) -> str:
        return f"{self.job} {self.event} {self.at_ms} {self.url}"


class Outbox:
    """The notices that wait for delivery. Every verb raises BrokerUnreachableError."""

    def __init__(self, scripts: Scripts, outbox: str, tries: str) -> None:
        """`outbox` and `tries` are its keys."""
        self._scripts = scripts
        self._keys = [outbox, tries]

    def take(self, *, ahead_s: int = 0) -> Notice | None:
        """A notice that is due, or will be in `ahead_s`; it is handed out again later, until `done`."""
        reply = self._scripts("outbox_take", self._keys, [FIRST_REST_MS, LONGEST_REST_MS, ahead_s])
        if reply is None:
            return None
        member, tries = reply
        job, event, at_ms, url = member.split(" ", 3)
        return Notice(job, JobPhase(event), int(at_ms), url, tries)

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
