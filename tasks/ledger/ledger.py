"""The ledger: the state of every job in Redis, changed by Lua scripts alone, on the clock of Redis."""

from __future__ import annotations

from contextlib import AbstractContextManager

import redis

from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.status import WorkerStatus
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.broker.settings_check import durability_warnings
from parquetry.tasks.ledger.job_index import JobIndex
from parquetry.tasks.ledger.jobs import Jobs
from parquetry.tasks.ledger.leases import Leases
from parquetry.tasks.ledger.lock import lock
from parquetry.tasks.ledger.outbox import Outbox
from parquetry.tasks.ledger.paces import Paces
from parquetry.tasks.ledger.policy import Policy
from parquetry.tasks.ledger.repair import Repair
from parquetry.tasks.ledger.roster import Roster
from parquetry.tasks.ledger.rounds import Rounds
from parquetry.tasks.ledger.shard_map import ShardMap


class Ledger(Jobs, Leases, Repair, Rounds):
    """All verbs over one connection, with the roster of workers, the outbox of notices and the digests of parts."""

    def __init__(self, client: redis.Redis, env: str, policy: Policy | None = None) -> None:
        super().__init__(client, env, policy)
        self.roster = Roster(self._scripts, self._keys)
        self.outbox = Outbox(self._scripts, self._keys.outbox, self._keys.outbox_tries)
        #: of every job, for the hook that an operator sets
        self.hooks = Outbox(self._scripts, self._keys.hooks, self._keys.hook_tries)
        self.index = JobIndex(self._scripts, self._keys)
        self.shards = ShardMap(client, self.url, self._keys)
        self.paces = Paces(client, self.url, self._keys)

    def durability_warnings(self) -> list[str]:
        """A sentence for each way in which this broker may forget jobs."""
        return durability_warnings(self._client)

    def lock(self, name: str, ttl_s: float) -> AbstractContextManager[bool]:
        """A context that says whether we got the lock; it never waits, and the lock ends by itself after `ttl_s`."""
        return lock(self._scripts, self._keys, name, ttl_s)

    def take_turn(self, name: str, every_s: float) -> bool:
        """Whether nobody has taken this turn for so long; who gets True has it now."""
        with translated(self.url):
            return bool(self._client.set(self._keys.lock(name), "taken", nx=True, px=int(every_s * 1000)))

    def permits(self, queue: str) -> int:
        """Permits of a queue that wait in the broker."""
        with translated(self.url):
            return self._client.llen(self._keys.permits(queue))

    def history(self, job: str) -> tuple[HistoryPoint, ...]:
        """What is kept of a job's past, see Histories.read."""
        return self.histories.read(job)

    def workers(self) -> list[WorkerStatus]:
        """The living workers."""
        return self.roster.alive()
