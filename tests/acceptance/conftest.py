"""Real processes, small models, one input folder for the session."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parquetry.local.embedded import find_server
from tests.acceptance.commands import Shell, wait_until
from tests.acceptance.tables import write_folder, write_odd_file


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupts() -> None:
    """A suite in the background of a shell is started with SIGINT ignored, which whatever it starts would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shell_of() -> Callable[[Path], Shell]:
    """Makes the shell that works in a folder."""
    return Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell of the test's own; whatever it started must be gone at the end."""
    shell = Shell(tmp_path)
    yield shell
    wait_until(lambda: not shell.processes(), f"the end of {shell.processes()}")


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that continues text."""
    from tests.models import write_causal_lm

    return write_causal_lm(tmp_path_factory.mktemp("generator"), chat=False)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that embeds text."""
    from tests.models import write_embedder

    return write_embedder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,003 rows in three files."""
    return write_folder(tmp_path_factory.mktemp("input") / "table")


@pytest.fixture(scope="session")
def odd_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows that break things, and no others."""
    return write_odd_file(tmp_path_factory.mktemp("odd") / "odd.parquet")


@pytest.fixture
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a TCP port, as a fleet has one."""
    port = _free_port()
    options = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(tmp_path_factory.mktemp("broker")),
    ]
    server = subprocess.Popen([str(find_server()), *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), "the broker")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
