"""What a Celery process knows of the worker it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """One worker of a node: one device and its engine, and `shards_in_flight` prefork children, which share this."""

    #: the name under which leases are held
    worker: str
    url: str
    env: str
    queues: tuple[str, ...]
    shards_in_flight: int
    #: where the device's supervisor listens
    socket: Path
    beat_s: float

    @property
    def claims(self) -> Path:
        """Where the children note what they run; beside the socket, so that it goes with the node."""
        return self.socket.parent / "claims"
