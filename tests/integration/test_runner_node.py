"""The real process tree: node, Celery workers, their children, engines; killed, drained and restarted."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from parquetry.tasks.recovery import recover
from tests.chaos.checker import check
from tests.chaos.process import Process, wait_until
from tests.integration.jobs_on_disk import ENGINE, DiskJob, make_job

LEASE_S = 3.0
DRAIN_S = 1.0


@pytest.fixture
def policy() -> Policy:
    return Policy(lease_s=LEASE_S, max_attempts=3, starvation_s=300.0)


@pytest.fixture
def start(server, env: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts nodes; all that is left of them at the end is killed."""
    nodes: list[Process] = []

    def start(url: str = server.url, **environment: str) -> Process:
        code = (
            "import sys; from parquetry.tasks.node.node import NodeOptions, run_node;"
            f"sys.exit(run_node(NodeOptions(broker_url={url!r}, gpus=())))"
        )
        variables = {
            "PARQUETRY_ENV": env,
            "PARQUETRY_STATE_DIR": str(tmp_path / "state"),
            "PARQUETRY_ENGINE_FACTORY": ENGINE,
            "PARQUETRY_LEASE_SECONDS": str(LEASE_S),
            "PARQUETRY_RECONCILE_SECONDS": "0.5",
            "PARQUETRY_DRAIN_SECONDS": str(DRAIN_S),
            "CHAOS_LOG": str(tmp_path / "rows"),
        }
        log = tmp_path / f"node-{len(nodes)}.log"
        nodes.append(Process([sys.executable, "-P", "-c", code], log, **variables | environment))
        return nodes[-1]

    yield start
    for node in nodes:
        node.kill()


def wait_for(ledger: Ledger, job: DiskJob, state: JobState, timeout_s: float = 40) -> None:
    wait_until(lambda: ledger.status(job.name).state is state, timeout_s, f"{job.name} {state}")


def wait_running(ledger: Ledger, job: DiskJob, shards: int = 1) -> None:
    wait_until(lambda: ledger.status(job.name).shards_running >= shards, 40, "running shards")
    wait_until(lambda: ledger.status(job.name).running_rows > 0, 120, "progress")


def assert_whole(ledger: Ledger, job: DiskJob) -> None:
    wait_for(ledger, job, JobState.DONE)
    assert check(Path(job.storage.root.path), job.table).violations == []


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def named(node: Process, text: str) -> list[int]:
    """Processes of a node's tree whose command line has this text."""
    return [pid for pid in node.tree() if text in Path(f"/proc/{pid}/cmdline").read_text()]


def test_job_runs_and_the_node_leaves_nothing_behind(tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=200)
    node = start()
    assert_whole(ledger, job)
    (worker,) = ledger.workers()
    assert (worker.device, worker.shards_in_flight, worker.queue) == ("cpu", 2, "default")
    wait_until(lambda: ledger.permits("default") == 0, 10, "an empty queue")
    tree = node.tree()
    assert len(tree) >= 5
    assert node.stop(20) < 10
    assert node.exit_code == 0
    assert re.search(r"engine \d+ is ready after \d+\.\d s", node.log.read_text())
    assert [pid for pid in tree if not is_gone(pid)] == []
    assert ledger.workers() == []


def test_drain_gives_shards_back_and_another_node_runs_them(tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=400, rows_per_shard=200)
    first = start(CHAOS_MS_PER_ROW="100")
    wait_running(ledger, job, 2)
    tree = first.tree()
    begin = time.monotonic()
    assert first.stop(30) < DRAIN_S + 8
    assert [pid for pid in tree if not is_gone(pid)] == []
    status = ledger.status(job.name)
    assert (status.shards_running, status.shards_pending, status.retries) == (0, 2, 0)
    start(CHAOS_MS_PER_ROW="1")
    assert_whole(ledger, job)
    assert time.monotonic() - begin < 40


def test_shard_that_fits_into_the_drain_time_is_finished(tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=100, rows_per_shard=50)
    node = start(CHAOS_MS_PER_ROW="20", PARQUETRY_DRAIN_SECONDS="15")
    wait_running(ledger, job, 2)
    assert node.stop(30) < 12
    assert ledger.status(job.name).shards_done == 2
    assert_whole(ledger, job)


def test_second_signal_ends_everything_at_once(tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=400, rows_per_shard=200)
    node = start(CHAOS_MS_PER_ROW="100", PARQUETRY_DRAIN_SECONDS="60")
    wait_running(ledger, job, 2)
    tree = node.tree()
    node.signal(signal.SIGINT)
    wait_until(lambda: "draining" in node.log.read_text(), 10, "the drain")
    node.signal(signal.SIGINT)
    assert node.wait(5) == 130
    wait_until(lambda: all(is_gone(pid) for pid in tree), 5, "the end of its processes")


def test_nothing_survives_a_killed_node_and_its_shards_are_taken_over(tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=200, rows_per_shard=50)
    node = start(CHAOS_MS_PER_ROW="40")
    wait_running(ledger, job, 2)
    tree = node.tree()
    node.signal(signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in tree), 5, "the end of its processes")
    start(CHAOS_MS_PER_ROW="1")
    assert_whole(ledger, job)
    # the children outlive the engine by a moment, in which each may give its shard back and take one more
    assert 2 <= ledger.status(job.name).retries <= 4


@pytest.mark.parametrize("victim", ["parquetry.tasks.node.celery_main", "parquetry.workers.hosting.process"])
def test_killed_process_is_replaced(victim: str, tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=200, rows_per_shard=50)
    node = start(CHAOS_MS_PER_ROW="20")
    wait_running(ledger, job, 2)
    # the first of them is the Celery main: its children come with it
    os.kill(named(node, victim)[0], signal.SIGKILL)
    assert_whole(ledger, job)
    assert node.is_alive


def test_killed_pool_child_costs_its_shard_one_attempt(tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=200, rows_per_shard=50)
    node = start(CHAOS_MS_PER_ROW="20")
    wait_running(ledger, job, 2)
    os.kill(named(node, "parquetry.tasks.node.celery_main")[-1], signal.SIGKILL)
    assert_whole(ledger, job)
    assert ledger.status(job.name).retries == 1


@pytest.mark.parametrize("step", ["claimed", "published", "success"])
def test_process_killed_at_a_step(step: str, tmp_path, ledger, start):
    job = make_job(tmp_path, ledger, rows=40)
    start(PARQUETRY_FAILPOINTS=f"{step}:kill")
    assert_whole(ledger, job)


def test_lost_permits_are_replaced(tmp_path, ledger, start, client, keys):
    job = make_job(tmp_path, ledger, rows=300)
    start(CHAOS_MS_PER_ROW="5")
    wait_until(lambda: ledger.status(job.name).shards_done > 2, 40, "parts")
    client.delete(f"{keys.prefix}permits.default")
    assert_whole(ledger, job)


def test_broker_that_is_killed_and_restarted_is_waited_for(tmp_path, fresh_server, env, policy, start):
    """Celery, the leases and the runners all find it again; nothing is computed twice."""
    with connect(fresh_server.url) as client:
        ledger = Ledger(client, env, policy)
        job = make_job(tmp_path, ledger, rows=200, rows_per_shard=20)
        node = start(fresh_server.url, CHAOS_MS_PER_ROW="20")
        for _ in range(2):
            done = ledger.status(job.name).shards_done
            wait_until(lambda done=done: ledger.status(job.name).shards_done > done, 40, "a part")
            fresh_server.kill()
            time.sleep(0.5)
            fresh_server.start()
        assert_whole(ledger, job)
        assert ledger.status(job.name).retries == 0
        assert node.is_alive


def test_broker_that_restarts_empty_is_waited_for(tmp_path, ledger, start, client, keys):
    """FLUSHALL under a running node: recovery from storage is all it takes."""
    job = make_job(tmp_path, ledger, rows=200, rows_per_shard=20)
    start(CHAOS_MS_PER_ROW="10")
    wait_until(lambda: ledger.status(job.name).shards_done >= 2, 40, "two parts")
    for key in client.scan_iter(f"{keys.prefix}*"):
        client.delete(key)
    recover(str(tmp_path / "out"), ledger)
    assert_whole(ledger, job)
