"""A broker that may forget jobs: whoever starts on it is told what would be lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from parquetry.tasks.broker.connection import connect
from parquetry.tasks.broker.settings_check import durability_warnings
from tests.chaos.input_table import write_model, write_table
from tests.chaos.process import environment_of, wait_until
from tests.chaos.server import Server

LOST = "append-only file is off: a restart of the broker forgets every job"


@pytest.fixture
def forgetful(tmp_path):
    server = Server(tmp_path / "forgetful", persistent=False)
    yield server
    server.kill()


def test_worker_warns_and_serves(forgetful, start_worker):
    worker = start_worker(forgetful.url)
    wait_until(lambda: "serving cpu" in worker.log.read_text(), 30, "the worker to serve")
    assert worker.log.read_text().count(LOST) == 1


def test_submit_warns_on_stderr_alone(forgetful, env, tmp_path):
    spec = {
        "task": "generate",
        "input": {"path": str(write_table(tmp_path / "in.parquet", 10))},
        "output": {"path": str(tmp_path / "out")},
        "model": {"id": str(write_model(tmp_path / "model"))},
        "prompt": {"template": "{{ text }}", "chat": False},
        "generation": {"max_new_tokens": 8},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [sys.executable, "-P", "-m", "parquetry", "submit", str(tmp_path / "spec.json"), "--json"]
    variables = environment_of({"PARQUETRY_BROKER_URL": forgetful.url, "PARQUETRY_ENV": env})
    ran = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=True)
    assert LOST in ran.stderr
    assert "parquetry recover OUTPUT" in ran.stderr
    assert json.loads(ran.stdout)["created"]


def test_eviction_is_told_too(forgetful):
    with connect(forgetful.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        sentences = durability_warnings(client)
    assert len(sentences) == 2
    assert "may drop the state of running jobs" in sentences[1]
    assert str(forgetful.port) in sentences[1]


def test_nothing_is_said_of_a_broker_that_remembers(tcp_server):
    with connect(tcp_server.url) as client:
        assert durability_warnings(client) == []


def test_nothing_is_said_of_a_private_socket(server):
    with connect(server.url) as client:
        assert durability_warnings(client) == []


def test_nothing_is_said_where_the_user_may_not_ask(forgetful):
    with connect(forgetful.url) as client:
        client.execute_command("ACL", "SETUSER", "small", "on", ">p", "~*", "+@all", "-info")
    with connect(f"redis://small:p@127.0.0.1:{forgetful.port}/0") as client:
        assert durability_warnings(client) == []
