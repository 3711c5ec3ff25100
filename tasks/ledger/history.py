"""The history of each job: its points are added by the scripts that move it on, and read here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis

from parquetry.schemas.progress.history import HistoryPoint
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys

#: kept of a job that is done; all of it lies beside the output
MAX_POINTS_DONE = 100


class Histories:
    """Raises BrokerUnreachableError."""

    def __init__(self, client: redis.Redis, url: str, keys: Keys) -> None:
        self._client = client
        self._url = url
        self._keys = keys

    def read(self, job: str) -> tuple[HistoryPoint, ...]:
        """Every point that is kept, in the order of time, the last two minutes close together; () of an unknown job."""
        # no transaction, which who may only look may not begin; what comes twice by that is told apart by its time
        with translated(self._url), self._client.pipeline(transaction=False) as pipe:
            for name in ("past", "late"):
                pipe.lrange(self._keys.of_job(job, name), 0, -1)
            past, late = cast("list[list[str]]", pipe.execute())
        recent = [HistoryPoint.parse(line) for line in late]
        earlier = [HistoryPoint.parse(line) for line in past]
        return (*(point for point in earlier if not recent or point.at_ms < recent[0].at_ms), *recent)

    def restore(self, job: str, points: Sequence[HistoryPoint]) -> None:
        """Give a job that was just registered the history it had."""
        if not points:
            return
        times: dict[Any, Any] = {name: getattr(points[-1], name) for name in ("active_ms", "worker_ms", "gpu_ms")}
        with translated(self._url), self._client.pipeline() as pipe:
            pipe.rpush(self._keys.of_job(job, "past"), *(point.line for point in points))
            pipe.hset(self._keys.of_job(job, "ctl"), mapping=times)
            pipe.execute()
