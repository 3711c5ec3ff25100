"""A broker that answers and refuses, messages that are none and records that are damaged: workers outlive all of it."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from parquetry.schemas.errors import BrokerNotServingError, BrokerUnreachableError
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.broker.waiting import wait_for_broker
from parquetry.tasks.keys import Keys, celery_queue
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.recovery import recover
from tests.chaos.checker import check
from tests.chaos.process import wait_until
from tests.integration.conftest import Server
from tests.integration.jobs_on_disk import make_job

#: a fault lasts for several beats
BEAT_S, FAULT_S = 0.25, 1.0
JUNK = (
    *(b"garbage", b"{}", b"\xff\xfe", b"[]", b"null", b"7"),
    b'{"body":"!!!","headers":{},"properties":{"delivery_info":{},"delivery_tag":"x"}}',
)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """One whose settings may be changed."""
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        server = Server(Path(folder), options=("--enable-protected-configs", "yes"))
        server.start()
        yield server
        server.kill()


def client_of(server: Server) -> redis.Redis:
    return redis.Redis(unix_socket_path=f"{server.folder}/s")


def is_full(client: redis.Redis) -> Callable[[], object]:
    client.config_set("maxmemory", "1")
    return lambda: client.config_set("maxmemory", "0")


def is_replica(client: redis.Redis) -> Callable[[], object]:
    client.replicaof("127.0.0.1", "1")
    return lambda: client.execute_command("REPLICAOF", "NO", "ONE")


def is_replica_without_master(client: redis.Redis) -> Callable[[], object]:
    client.config_set("replica-serve-stale-data", "no")
    return is_replica(client)


def cannot_save(client: redis.Redis) -> Callable[[], object]:
    with tempfile.TemporaryDirectory() as folder:
        client.config_set("dir", folder)
    client.config_set("save", "1 1")
    client.set("one", 1)

    def mend() -> None:
        client.config_set("save", "")
        client.config_set("dir", "/tmp")
        client.config_set("stop-writes-on-bgsave-error", "no")

    return mend


def is_busy(client: redis.Redis) -> Callable[[], object]:
    client.config_set("busy-reply-threshold", "100")
    path = client.connection_pool.connection_kwargs["path"]
    # nobody is let in while the script runs
    killer = redis.Redis(unix_socket_path=path, single_connection_client=True)
    killer.ping()

    def hang() -> None:
        with redis.Redis(unix_socket_path=path) as own, pytest.raises(redis.RedisError):
            own.eval("while true do end", 0)

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()

    def mend() -> None:
        killer.script_kill()
        killer.close()
        # it ends at its next step
        thread.join(20)

    return mend


#: what of a job is damaged: fields of its record, the whole of it, its leases
DAMAGED = ("field", "whole", "tokens")
FAULTS = (is_full, is_replica, is_replica_without_master, cannot_save, is_busy)


def test_a_worker_outlives_refusals_messages_that_are_none_and_damaged_jobs(
    tmp_path: Path, own_server: Server, env: str, start_worker: Callable
) -> None:
    ledger, client, keys = Ledger(connect(own_server.url), env), client_of(own_server), Keys(env)
    job = make_job(tmp_path, ledger, rows=240, rows_per_shard=120)
    damage(tmp_path, ledger, client, keys)
    worker = start_worker(own_server.url, CHAOS_MS_PER_ROW="70", PARQUETRY_BEAT_SECONDS=str(BEAT_S))
    wait_until(lambda: ledger.status(job.name).running_rows > 0, 60, "progress")
    tree = worker.tree()
    for fault in FAULTS:
        mend = fault(client)
        time.sleep(FAULT_S)
        mend()
    for junk in JUNK:
        client.rpush(keys.prefix + celery_queue("default"), junk)
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 90, "the job to be done")
    assert set(tree) <= set(worker.tree())
    assert ledger.status(job.name).retries == 0
    assert check(Path(job.storage.root.path), job.table).violations == []
    assert "ghost" not in [known.worker for known in ledger.workers()] and ledger.workers()
    told = {status.job: status.damage for status in ledger.jobs()}
    assert told.pop(job.name) is None and len(told) == len(DAMAGED) and all(told.values())
    # only their outputs still know them
    for name in DAMAGED:
        recover(str(tmp_path / name / "out"), ledger)
    wait_until(lambda: all(status.state is JobState.DONE for status in ledger.jobs()), 60, "the mended jobs to be done")
    log = worker.log.read_text()
    assert "is no message" in log and "Traceback" not in log
    # a sentence a minute of everybody who meets it
    assert log.count("does not serve for now") <= 5 * len(FAULTS)


def damage(tmp_path: Path, ledger: Ledger, client: redis.Redis, keys: Keys) -> None:
    """Jobs of the highest priority whose records are broken, and an entry of a worker that says nothing."""
    client.zadd(keys.workers, {"ghost": client.time()[0] * 1000})
    client.hset(keys.worker("ghost"), mapping={"shards_in_flight": "many", "engine": "{"})
    for number, name in enumerate(DAMAGED):
        (tmp_path / name).mkdir()
        job = make_job(tmp_path / name, ledger, priority=number)
        record = keys.of_job(job.name, "ctl")
        if name == "field":
            client.hset(record, mapping={"shards": "many", "served": ""})
        elif name == "tokens":
            client.set(keys.of_job(job.name, "tok"), "x")
        else:
            client.delete(record)
            client.set(record, "x")


def test_the_refusal_is_told_in_a_sentence(own_server: Server, env: str, tmp_path: Path) -> None:
    ledger, client = Ledger(connect(own_server.url), env), client_of(own_server)
    client.replicaof("127.0.0.1", "1")
    with pytest.raises(BrokerNotServingError, match=r"answers, but does not serve for now: .*read only replica"):
        make_job(tmp_path, ledger)
    client.execute_command("REPLICAOF", "NO", "ONE")
    make_job(tmp_path, ledger)


def test_a_worker_waits_for_its_broker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        server, stop = Server(Path(folder)), threading.Event()
        with pytest.raises(BrokerUnreachableError):
            wait_for_broker(server.url, 0.0, stop)
        starting = threading.Timer(1.5, server.start)
        starting.start()
        with wait_for_broker(server.url, None, stop) as client:
            assert client.ping()
        assert "waiting for the broker" in caplog.text
        # it watches the server until it answers there too
        starting.join()
        server.kill()
        stop.set()
        assert wait_for_broker(server.url, None, stop) is None
