"""Who is alive: every worker's sign of life, on the clock of Redis."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

from pydantic import BaseModel

from parquetry.schemas.errors import UnknownWorkerError
from parquetry.schemas.manifest import FORMAT_VERSION
from parquetry.schemas.progress.status import DeviceUse, EngineState, EngineStats, WorkerStatus
from parquetry.tasks.broker.connection import translated
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.scripts import Scripts

log = logging.getLogger(__name__)
#: a worker silent for this long does not count as alive
ALIVE_S = 30.0
#: and is forgotten after this long
FORGET_S = 3600.0
#: of a worker's hash, in the order in which they are asked for
WORKER_FIELDS = (
    *("shards_in_flight", "host", "device", "queue", "model", "engine", "engine_before"),
    *("state", "offers", "device_use", "drained", "kind", "reads"),
)


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
        engine_before: EngineStats | None = None,
        state: EngineState | None = None,
        offers: Sequence[str] | None = None,
        device_use: DeviceUse | None = None,
        kind: str = "",
    ) -> bool:
        """Tell that a worker lives, what it offers, what its engine does and has counted; whether it is to drain."""
        fields = {
            "host": host,
            "device": device,
            "queue": ",".join(queues),
            "shards_in_flight": shards_in_flight,
            "engine": _text(engine),
            "engine_before": _text(engine_before),
            "state": _text(state),
            "offers": "" if offers is None else "\n" + "\n".join(offers),
            "device_use": _text(device_use),
            "kind": kind or worker,
            "reads": FORMAT_VERSION,
        }
        flat = [item for pair in fields.items() for item in pair]
        keys = [self._keys.workers, self._keys.worker(worker)]
        return bool(self._scripts("announce", keys, [worker, int(FORGET_S * 1000), *flat]))

    def drain(self, worker: str, *, wanted: bool = True) -> None:
        """Have a worker take no more shards, or some again when not `wanted`. Raises UnknownWorkerError."""
        keys = [self._keys.workers, self._keys.worker(worker)]
        if not self._scripts("drain", keys, [worker, "1" if wanted else "0"]):
            raise UnknownWorkerError(worker=worker)

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
        args = [self._keys.prefix, int(ALIVE_S * 1000), *WORKER_FIELDS]
        reply = self._scripts("workers", [self._keys.workers], args)
        found = filter(None, (_read(*row) for row in reply))
        return sorted(found, key=lambda worker: worker.worker)

    def shards_in_flight(self, queue: str) -> int:
        """How many shards of a queue the living workers may run at once."""
        serving = (worker for worker in self.alive() if queue in worker.queue.split(",") and not worker.drained)
        return sum(worker.shards_in_flight for worker in serving)


def _text(told: BaseModel | None) -> str:
    return told.model_dump_json(exclude_defaults=True) if told is not None else ""


def _read(name: str, *told: str) -> WorkerStatus | None:
    """None for an entry that cannot be read: the other workers are to be seen all the same."""
    try:
        return _worker(name, *told)
    except (ValueError, TypeError) as error:
        log.warning("the entry of worker %s in the broker is damaged and left out (%s)", name, type(error).__name__)
        return None


def _worker(name: str, seen_ms: str, *fields: str) -> WorkerStatus:
    told = dict(zip(WORKER_FIELDS, fields, strict=True))
    return WorkerStatus(
        worker=name,
        **{field: told[field] for field in ("host", "device", "queue")},
        shards_in_flight=int(told["shards_in_flight"]),
        model=told["model"] or None,
        seen=int(seen_ms) / 1000,
        engine=EngineStats.model_validate_json(told["engine"]) if told["engine"] else None,
        engine_before=EngineStats.model_validate_json(told["engine_before"]) if told["engine_before"] else None,
        state=EngineState.model_validate_json(told["state"] or "{}"),
        offers=tuple(filter(None, told["offers"].split("\n"))) if told["offers"] else None,
        device_use=DeviceUse.model_validate_json(told["device_use"]) if told["device_use"] else None,
        drained=told["drained"] == "1",
        kind=told["kind"],
        reads=int(told["reads"] or 0),
    )
