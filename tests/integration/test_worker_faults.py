"""Real `parquetry worker` processes whose engines never start, whose children die, and whose jobs are stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.keys import Keys
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.checker import check
from tests.chaos.process import Process, environment_of, wait_until
from tests.integration.jobs_on_disk import DiskJob, make_job

#: a row a step: a shard has hours of work
ENDLESS = {"CHAOS_MS_PER_ROW": "10000", "PARQUETRY_BEAT_SECONDS": "0.5"}


@pytest.fixture
def parquetry(server, env):
    """Runs a command of ours on the test's broker; its output."""

    def run(*arguments: str) -> str:
        variables = environment_of({"PARQUETRY_BROKER_URL": server.url, "PARQUETRY_ENV": env})
        command = [sys.executable, "-P", "-m", "parquetry", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=variables, check=True).stdout

    return run


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("fails_to_load", "libcudart.so.12: cannot open shared object file"),
        ("hangs_while_loading", "it took longer than 1 s to load (PARQUETRY_ENGINE_START_SECONDS)"),
        ("runs_out_of_memory", "CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_engine_that_never_works(factory, reason, tmp_path, server, ledger, start_worker, parquetry):
    """Retried, set aside, told; the worker lives, and serves the job once there is an engine for it."""
    job = make_job(tmp_path, ledger, rows=4, rows_per_shard=4)
    worker = start_worker(
        server.url,
        PARQUETRY_ENGINE_FACTORY=f"tests.chaos.broken_engines:{factory}",
        PARQUETRY_ENGINE_START_SECONDS="1" if factory == "hangs_while_loading" else "60",
        PARQUETRY_MAX_ATTEMPTS="1",
    )
    # three engines start one after the other, each with all of its imports
    wait_for(ledger, job, JobState.FAILED, 180)
    (failure,) = json.loads(parquetry("status", job.name, "--json"))["failures"]
    assert failure["shard"] == 0
    assert failure["attempts"] == 3
    assert reason in failure["reason"]
    assert ledger.status(job.name).retries == 2
    assert reason in worker.log.read_text()
    assert worker.is_alive
    assert job.parts() == []
    assert worker.stop(20) < 15
    start_worker(server.url)
    parquetry("retry", job.name)
    assert_whole(ledger, job)


@pytest.mark.parametrize(("command", "state"), [("pause", JobState.PAUSED), ("cancel", JobState.CANCELLED)])
def test_stopped_job_gives_its_shards_back_and_goes_on(
    command, state, tmp_path, server, client, keys, ledger, start_worker, parquetry
):
    job = make_job(tmp_path, ledger, rows=2000, rows_per_shard=1000)
    worker = start_worker(server.url, **ENDLESS)
    wait_until(lambda: ledger.status(job.name).shards_running == 2, 40, "two running shards")
    engine = started_engine(worker)
    parquetry(command, job.name)
    wait_until(lambda: ledger.status(job.name).shards_running == 0, 15, "the shards to be given back")
    status = ledger.status(job.name)
    assert (status.state, status.shards_pending, status.shards_done, status.retries) == (state, 2, 0, 0)
    assert attempts(client, keys, job) == {}
    assert engine in worker.tree(), "the engine was to live on"

    # the same worker takes them again; another one, whose engine is faster, then ends the job
    parquetry("resume", job.name)
    wait_until(lambda: ledger.status(job.name).shards_running == 2, 15, "the shards to run again")
    assert worker.stop(20) < 15
    start_worker(server.url, CHAOS_MS_PER_ROW="0")
    assert_whole(ledger, job)
    assert ledger.status(job.name).retries == 0


def test_shards_of_a_drained_worker_are_started_by_another(tmp_path, server, client, keys, ledger, start_worker):
    """The lease is a minute: only a release lets the other one have them."""
    job = make_job(tmp_path, ledger, rows=4000, rows_per_shard=1000)
    first, second = (start_worker(server.url, **ENDLESS) for _ in range(2))
    wait_until(lambda: ledger.status(job.name).shards_running == 4, 40, "both workers to be busy")
    held = held_by(ledger, first)
    assert len(held) == 2
    first.signal(signal.SIGTERM)
    third = start_worker(server.url, **ENDLESS)
    assert first.wait(30) == 0
    assert held_by(ledger, first) == set()
    waited = wait_until(lambda: held <= held_by(ledger, second) | held_by(ledger, third), 30, "the shards to be taken")
    assert waited < 10
    assert attempts(client, keys, job) == {}


@pytest.mark.parametrize("victim", ["pool child", "Celery worker"])
def test_shard_of_a_killed_process_does_not_wait_for_its_lease(victim, tmp_path, server, ledger, start_worker):
    """The lease lasts ten minutes, the test one."""
    job = make_job(tmp_path, ledger, rows=200, rows_per_shard=50)
    worker = start_worker(
        server.url, CHAOS_MS_PER_ROW="20", PARQUETRY_LEASE_SECONDS="600", PARQUETRY_BEAT_SECONDS="0.2"
    )
    wait_until(lambda: ledger.status(job.name).shards_running == 2, 40, "two running shards")
    wait_until(lambda: ledger.status(job.name).running_rows > 0, 40, "progress")
    processes = [pid for pid in worker.tree() if "parquetry.tasks.node.celery_main" in command_line(pid)]
    os.kill(processes[-1 if victim == "pool child" else 0], signal.SIGKILL)
    assert_whole(ledger, job)
    assert ledger.status(job.name).retries == (1 if victim == "pool child" else 2)
    assert "the process that ran it died" in worker.log.read_text()


def wait_for(ledger: Ledger, job: DiskJob, state: JobState, timeout_s: float = 60) -> None:
    wait_until(lambda: ledger.status(job.name).state is state, timeout_s, f"the job to be {state}")


def assert_whole(ledger: Ledger, job: DiskJob) -> None:
    wait_for(ledger, job, JobState.DONE)
    assert check(Path(job.storage.root.path), job.table).violations == []


def started_engine(worker: Process) -> int:
    """Its process id, once it works on a row."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid in worker.tree() if "parquetry.workers.hosting.process" in command_line(pid)]
        return bool(found)

    wait_until(look, 30, "an engine")
    return found[-1]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def held_by(ledger: Ledger, worker: Process) -> set[int]:
    """The shards this node holds; its process id is part of its workers' names."""
    names = [known.worker for known in ledger.workers() if f"-{worker.pid}-" in known.worker]
    return {claim.shard for name in names for claim in ledger.holdings(name)}


def attempts(client: Redis, keys: Keys, job: DiskJob) -> dict[str, str]:
    """Leases lost, by shard."""
    return client.hgetall(keys.of_job(job.name, "att"))
