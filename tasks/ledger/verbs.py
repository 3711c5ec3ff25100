"""What every verb of the ledger stands on: its scripts, its keys, its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis

from parquetry.schemas.errors import UnknownJobError, suggestion
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.digests import Digests
from parquetry.tasks.ledger.history import Histories
from parquetry.tasks.ledger.policy import Policy
from parquetry.tasks.ledger.scripts import Scripts


class Verbs:
    """Every verb that changes something is one script, so it happens wholly or not at all.

    All of them raise BrokerUnreachableError; the verb may have happened then, and may be repeated.
    """

    def __init__(self, client: redis.Redis, env: str, policy: Policy | None = None) -> None:
        self.env = env
        self.policy = policy or Policy.of()
        self._client = client
        self._keys = Keys(env)
        self._scripts = Scripts(client)
        self.digests = Digests(client, self._scripts.url, self._keys)
        self.histories = Histories(client, self._scripts.url, self._keys)

    @property
    def url(self) -> str:
        """Where it is, without its password."""
        return self._scripts.url

    def job_names(self) -> list[str]:
        """Every job's id, the newest first."""
        with translated(self.url):
            return cast("list[str]", self._client.zrevrange(self._keys.jobs, 0, -1))

    def _job(self, name: str, job: str, *args: Any, more_keys: Sequence[str] = ()) -> Any:
        return self._scripts(f"job/{name}", [*self._keys.job(job), *more_keys], [job, *args])

    def _unknown(self, job: str) -> UnknownJobError:
        return UnknownJobError(job=job, suggestion=suggestion(job, self.job_names()))
