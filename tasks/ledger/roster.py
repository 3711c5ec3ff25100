"""Who is alive: every worker's sign of life, on the clock of Redis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from parquetry.schemas.status import EngineStats, WorkerStatus
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.scripts import Scripts

#: a worker silent for this long does not count as alive
ALIVE_S = 30.0
#: and is forgotten after this long
FORGET_S = 3600.0


class Roster:
    """The workers of one environment."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    def announce(
        self,
        worker: str,
        *,
        host: str,
        device: str,
        queues: Sequence[str],
        shards_in_flight: int,
        engine: EngineStats | None = None,
    ) -> None:
        """Tell that a worker lives, what it offers, and what its engine has counted."""
        counted = engine.model_dump_json(exclude_defaults=True) if engine is not None else ""
        fields = {
            "host": host,
            "device": device,
            "queue": ",".join(queues),
            "shards_in_flight": shards_in_flight,
            "engine": counted,
        }
        flat = [item for pair in fields.items() for item in pair]
        keys = [self._keys.workers, self._keys.worker(worker)]
        self._scripts("announce", keys, [worker, int(FORGET_S * 1000), *flat])

    def last_claim(self, worker: str) -> str | None:
        """When a worker last asked for a shard, successfully or not: ms since the Unix epoch, None if it never did."""
        with translated(self._scripts.url):
            return cast("str | None", self._scripts.client.hget(self._keys.worker(worker), "asked"))

    def retire(self, worker: str) -> None:
        """Take a worker that stops in good order off the list."""
        with translated(self._scripts.url), self._scripts.client.pipeline() as pipe:
            pipe.zrem(self._keys.workers, worker)
            pipe.delete(self._keys.worker(worker))
            pipe.execute()

    def alive(self) -> list[WorkerStatus]:
        """The workers that gave a sign of life lately, by name."""
        reply = self._scripts("workers", [self._keys.workers], [self._keys.prefix, int(ALIVE_S * 1000)])
        return sorted((_worker(*row) for row in reply), key=lambda worker: worker.worker)

    def shards_in_flight(self, queue: str) -> int:
        """How many shards of a queue the living workers may run at once."""
        return sum(worker.shards_in_flight for worker in self.alive() if queue in worker.queue.split(","))


def _worker(
    name: str, seen_ms: str, host: str, device: str, queue: str, shards_in_flight: str, model: str, engine: str
) -> WorkerStatus:
    return WorkerStatus(
        worker=name,
        host=host,
        device=device,
        queue=queue,
        shards_in_flight=int(shards_in_flight),
        model=model or None,
        seen=int(seen_ms) / 1000,
        engine=EngineStats.model_validate_json(engine) if engine else None,
    )
