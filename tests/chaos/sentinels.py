"""A master, its replica and a Sentinel: what a user would run who must outlive the loss of the broker's machine."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.chaos.process import Process, wait_until
from tests.chaos.server import Server, find_server, free_port

NAME = "chaos"
#: a master silent for this long is given up
DOWN_AFTER_MS = 1000


class Sentinels:
    """Stands where a Server would; `client` talks to whichever is the master at the time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.master = Server(folder / "master")
        self.replica = Server(folder / "replica", "--replicaof", "127.0.0.1", str(self.master.port))
        self._sentinel = Process([find_server(), str(self._configuration()), "--sentinel"], folder / "sentinel.log")
        wait_until(self._is_ready, 20.0, "the Sentinel to know master and replica")

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/{NAME}/0"

    def client(self) -> redis.Redis:
        _, port = self._ask().sentinel_get_master_addr_by_name(NAME)
        return redis.Redis(port=port, socket_timeout=10.0, socket_connect_timeout=5.0)

    def kill_master(self) -> None:
        """The machine of the master is gone, and does not come back."""
        self.master.kill()

    def has_failed_over(self) -> bool:
        """Whether the replica is the master now."""
        return self.client().get_connection_kwargs()["port"] == self.replica.port

    def kill(self) -> None:
        self._sentinel.kill()
        self.master.kill()
        self.replica.kill()

    def _ask(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=10.0, decode_responses=True)

    def _is_ready(self) -> bool:
        try:
            known = self._ask().sentinel_master(NAME)
            return known["num-slaves"] == 1 and self.replica.client().info("replication")["master_link_status"] == "up"
        except redis.RedisError:
            return False

    def _configuration(self) -> Path:
        # Sentinel writes what it learns into this file
        file = self.folder / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\n"
        )
        return file
