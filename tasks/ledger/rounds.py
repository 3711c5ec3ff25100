"""Retries of error rows in the ledger: begun as a round of the job, with the shards that have such rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple, cast

from parquetry.schemas.errors import IllegalTransitionError, RetryableError
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import DIGESTS_PER_KEY
from parquetry.tasks.ledger.claim import Digest
from parquetry.tasks.ledger.verbs import Verbs

#: shards that one script queues
QUEUED_AT_ONCE = 500


class ShardsHeldError(RetryableError):
    """Workers still hold shards of job {job} and give them back within seconds; try again then."""


class DueShard(NamedTuple):
    """A shard with error rows, as its part is."""

    shard: int
    rows: int
    error_rows: int


class Rounds(Verbs):
    """The verbs of whoever retries error rows."""

    def due(self, job: str) -> dict[int, int]:
        """The shards whose error rows are still to be computed anew, each with how many these are."""
        with translated(self.url):
            found = cast("dict[str, str]", self._client.hgetall(self._keys.of_job(job, "redo")))
        return {int(shard): int(rows) for shard, rows in found.items()}

    def open_round(self, job: str, least: int, fields: Mapping[str, Any], *, force: bool = False) -> int:
        """Let a job that has ended run again, with no shard queued yet; its round, which is `least` or above.

        `fields` are those of its ctl hash that the settings of the round change; `force` is for a job that was just
        entered. Raises UnknownJobError, IllegalTransitionError, ShardsHeldError.
        """
        flat = [item for pair in fields.items() for item in pair]
        reply = self._job("open_round", job, least, int(force), *flat)
        if reply is None:
            raise self._unknown(job)
        if reply[0] == "STATE":
            raise IllegalTransitionError(job=job, state=reply[1], wanted="retried by rows before it has ended")
        if reply[0] == "BUSY":
            raise ShardsHeldError(job=job)
        return int(reply[1])

    def is_in_round(self, job: str, round: int) -> bool:
        """Whether the job runs in this round still."""
        with translated(self.url):
            state, now = self._client.hmget(self._keys.of_job(job, "ctl"), ["state", "round"])
        return state == "running" and now == str(round)

    def queue_rows(self, job: str, round: int, shards: Iterable[DueShard]) -> bool:
        """Queue shards, in ascending order, and open the job for them and for those that are queued already.

        False when the job is not in this round any more.
        """
        groups = (list(group) for _, group in groupby(shards, key=lambda due: due.shard // DIGESTS_PER_KEY))
        starts = ((group, start) for group in groups for start in range(0, len(group), QUEUED_AT_ONCE))
        # the first refusal is the last question
        queued = all(self._queue(job, round, group[start : start + QUEUED_AT_ONCE]) for group, start in starts)
        return queued and self._queue(job, round, [])

    def _queue(self, job: str, round: int, shards: list[DueShard]) -> bool:
        offsets = ((due, due.shard % DIGESTS_PER_KEY * Digest.num_bytes) for due in shards)
        flat = [number for due, at in offsets for number in (*due, at)]
        digests = [self._keys.digests(job, shards[0].shard if shards else 0)]
        return bool(self._job("queue_rows", job, round, bytes(Digest.num_bytes), *flat, more_keys=digests))
