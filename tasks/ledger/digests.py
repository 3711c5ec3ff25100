"""Digests of committed parts, 40 bytes a shard: what the manifest needs and a listing of the output does not have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import redis

from parquetry.schemas.manifest import PartRecord
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import DIGESTS_PER_KEY, Keys
from parquetry.tasks.ledger.claim import Digest


class Digests:
    """Reads digests by the thousand; commit.lua writes them one by one."""

    def __init__(self, client: redis.Redis, url: str, keys: Keys) -> None:
        self._client = client
        self._url = url
        self._keys = keys

    def put(self, job: str, parts: Iterable[PartRecord]) -> None:
        """Note parts that were committed before the job was registered here."""
        with translated(self._url), self._client.pipeline(transaction=False) as pipe:
            for part in parts:
                offset = part.shard % DIGESTS_PER_KEY * Digest.num_bytes
                pipe.setrange(self._keys.digests(job, part.shard), offset, Digest.of(part).pack())
            pipe.execute()

    def read(self, job: str, num_shards: int) -> Iterator[Digest | None]:
        """One a shard in order; None where nothing is known."""
        for first in range(0, num_shards, DIGESTS_PER_KEY):
            stored = self._ask("GET", self._keys.digests(job, first))
            for index in range(min(DIGESTS_PER_KEY, num_shards - first)):
                yield Digest.unpack(stored[index * Digest.num_bytes : (index + 1) * Digest.num_bytes])

    def error_rows(self, job: str, shard: int) -> int:
        """Error rows of one committed part, 0 when nothing is known of it."""
        first = shard % DIGESTS_PER_KEY * Digest.num_bytes
        args = (self._keys.digests(job, shard), first, first + Digest.num_bytes - 1)
        digest = Digest.unpack(self._ask("GETRANGE", *args))
        return digest.error_rows if digest else 0

    def _ask(self, *command: object) -> bytes:
        with translated(self._url):
            return self._client.execute_command(*command, NEVER_DECODE=True) or b""
