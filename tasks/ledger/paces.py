"""How fast jobs that are done were, kept in Redis too: whoever submits the next one may be on another machine."""

from __future__ import annotations

from typing import cast

import redis

from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys

#: jobs that are remembered, the last ones
MAX_PACES = 200


class Paces:
    """One text a job, whatever it says. Raises BrokerUnreachableError."""

    def __init__(self, client: redis.Redis, url: str, keys: Keys) -> None:
        self._client = client
        self._url = url
        self._keys = keys

    def keep(self, text: str, ended: float) -> None:
        """Remember the pace of a job that ended at that time, and forget the oldest beyond MAX_PACES."""
        with translated(self._url), self._client.pipeline() as pipe:
            pipe.zadd(self._keys.paces, {text: ended})
            pipe.zremrangebyrank(self._keys.paces, 0, -MAX_PACES - 1)
            pipe.execute()

    def all(self) -> list[str]:
        """The oldest first."""
        with translated(self._url):
            return cast("list[str]", self._client.zrange(self._keys.paces, 0, -1))
