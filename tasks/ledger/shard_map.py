"""The states of a job's shards: counted in cells, so that a million of them are a small answer; and one shard whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import redis
from pydantic import BaseModel, ConfigDict

from parquetry.schemas.progress.events import JobEvent, ShardEnd
from parquetry.schemas.progress.states import ShardState
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys

MAX_CELLS = 4096


class ShardCells(BaseModel):
    """Shards [first, first + count) in cells of `step` shards: how many of each cell are in which state."""

    model_config = ConfigDict(frozen=True)

    first: int
    count: int
    step: int
    #: the rest of a cell is pending
    done: list[int]
    running: list[int]
    failed: list[int]


class ShardNow(BaseModel):
    """One shard, as far as the queue knows it."""

    model_config = ConfigDict(frozen=True)

    shard: int
    state: ShardState
    #: of a leased one; of a committed one while it is among the last
    worker: str | None = None
    fence: int | None = None
    #: leases lost so far
    lost: int = 0
    #: seconds since the Unix epoch at which the lease ends, unless it is renewed
    lease_ends: float | None = None
    #: rows finished in the running attempt, error rows among them
    rows: int | None = None
    error_rows: int | None = None
    #: why it failed
    reason: str | None = None
    #: when it was committed, seconds since the Unix epoch, and how long it took
    ended: float | None = None
    took_s: float | None = None


class ShardMap:
    """Raises BrokerUnreachableError."""

    def __init__(self, client: redis.Redis, url: str, keys: Keys) -> None:
        self._client = client
        self._url = url
        self._keys = keys

    def cells(self, job: str, first: int, count: int, max_cells: int = MAX_CELLS) -> ShardCells:
        """The states of shards [first, first + count); in one cell each where there are few."""
        step = max(1, -(-count // max_cells))
        bitmap, leased, failed = self._read(job, first, count)
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8))[first % 8 :][:count]
        done = np.zeros(-(-count // step) * step, np.uint8)
        done[: len(bits)] = bits
        return ShardCells(
            first=first,
            count=count,
            step=step,
            done=done.reshape(-1, step).sum(axis=1, dtype=np.int64).tolist(),
            running=_counts(leased, first, count, step),
            failed=_counts(failed, first, count, step),
        )

    def _read(self, job: str, first: int, count: int) -> tuple[bytes, list[bytes], list[bytes]]:
        last = max(first + count - 1, first)
        with translated(self._url):
            bitmap = self._client.execute_command(
                "GETRANGE", self._keys.of_job(job, "done"), first // 8, last // 8, NEVER_DECODE=True
            )
            leased, failed = (self._client.hkeys(self._keys.of_job(job, name)) for name in ("tok", "bad"))
        return cast("bytes", bitmap) or b"", cast("list[bytes]", leased), cast("list[bytes]", failed)

    def shard(self, job: str, shard: int) -> ShardNow:
        """One shard; pending where nothing is known of it."""
        with translated(self._url), self._client.pipeline(transaction=False) as pipe:
            pipe.getbit(self._keys.of_job(job, "done"), shard)
            for name in ("tok", "att", "bad", "run"):
                pipe.hget(self._keys.of_job(job, name), str(shard))
            pipe.zscore(self._keys.of_job(job, "lease"), str(shard))
            is_done, token, lost, failure, told, deadline = pipe.execute()
        if is_done:
            return self._committed(job, shard)
        if failure is not None:
            attempts, _, reason = failure.partition(":")
            return ShardNow(shard=shard, state=ShardState.FAILED, lost=int(attempts), reason=reason)
        state = ShardState.PENDING if token is None else ShardState.LEASED
        ends = None if deadline is None else deadline / 1000
        return ShardNow(shard=shard, state=state, lost=int(lost or 0), lease_ends=ends, **_holder(token), **_told(told))

    def _committed(self, job: str, shard: int) -> ShardNow:
        end = next((end for end in reversed(self.ends(job)) if end.shard == shard), None)
        if end is None:
            return ShardNow(shard=shard, state=ShardState.COMMITTED)
        return ShardNow(
            shard=shard,
            state=ShardState.COMMITTED,
            worker=end.worker or None,
            fence=end.fence or None,
            rows=end.rows,
            error_rows=end.error_rows,
            ended=end.at_ms / 1000,
            took_s=end.took_ms / 1000 if end.took_ms else None,
        )

    def events(self, job: str) -> list[JobEvent]:
        """What happened to the job, in the order of time; the last of it."""
        return [JobEvent.parse(line) for line in self._lines(job, "evts")]

    def ends(self, job: str) -> list[ShardEnd]:
        """The shards that were committed last, in the order of time."""
        return [ShardEnd.parse(line) for line in self._lines(job, "ends")]

    def _lines(self, job: str, name: str) -> list[str]:
        with translated(self._url):
            return cast("list[str]", self._client.lrange(self._keys.of_job(job, name), 0, -1))


def _counts(shards: Iterable[bytes | str], first: int, count: int, step: int) -> list[int]:
    """How many of these shards lie in each cell."""
    numbers = np.array([int(shard) for shard in shards], np.int64) - first
    places = numbers[(numbers >= 0) & (numbers < count)] // step
    return cast("list[int]", np.bincount(places, minlength=-(-count // step)).tolist())


def _holder(token: str | None) -> dict[str, Any]:
    fence, _, worker = (token or "").partition(":")
    return {"fence": int(fence), "worker": worker} if fence else {}


def _told(told: str | None) -> dict[str, Any]:
    rows, error_rows = (told or "").split(":")[:2] if told else (None, None)
    return {} if rows is None else {"rows": int(rows), "error_rows": int(error_rows or 0)}
