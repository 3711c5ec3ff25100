"""The users of deploy/redis/users.acl do what their roles need and no more, against a real server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from parquetry.schemas.errors import BrokerRefusedError, ParquetryError
from parquetry.schemas.finding import Level
from parquetry.schemas.progress.states import JobState
from parquetry.tasks import permits
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.broker.permissions import check_permissions
from parquetry.tasks.ledger.claim import LeaseProgress
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.process import wait_until
from tests.integration.conftest import Server, free_port
from tests.integration.jobs_on_disk import make_job
from tests.integration.records import make_record

USERS = (Path(__file__).parents[2] / "deploy" / "redis" / "users.acl").read_text().splitlines()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server with our users."""
    number = free_port()
    with tempfile.TemporaryDirectory(prefix="pq-") as folder:
        server = Server(Path(folder), options=("--bind", "127.0.0.1", "--port", str(number)))
        server.start()
        with redis.Redis(unix_socket_path=f"{folder}/s") as admin:
            # the default user last: this connection is one of its
            for line in reversed(USERS):
                admin.execute_command("ACL", "SETUSER", *line.split()[1:])
        yield number
        server.kill()


@pytest.fixture
def url_of(port: int) -> Callable[[str], str]:
    return lambda user: f"redis://{user}:change-me-{user}@127.0.0.1:{port}/0"


@pytest.fixture
def ledger_of(url_of: Callable[[str], str], env: str) -> Callable[[str], Ledger]:
    return lambda user: Ledger(connect(url_of(user)), env)


def test_a_job_from_producer_to_worker_to_viewer(ledger_of, url_of, env):
    record = make_record(shards=1)
    ledger_of("producer").register(record)
    permits.top_up(ledger_of("producer"), url_of("producer"), "default", issued_by="test")
    worker = ledger_of("worker")
    claim = worker.claim("w", ["default"])
    assert claim is not None
    worker.beat(claim, LeaseProgress(rows=3, is_computing=True))
    worker.release(claim)
    viewer = ledger_of("viewer")
    assert [point.rows for point in viewer.history(record.job)] == [3]
    assert [status.job for status in viewer.jobs()] == [record.job]
    assert viewer.status(record.job).shards == 1
    viewer.workers()


@pytest.mark.parametrize(
    "change",
    [
        lambda ledger, record: ledger.set_state(record.job, JobState.PAUSED),
        lambda ledger, record: ledger.register(make_record(job="other")),
        lambda ledger, record: ledger.remove(record.job),
        lambda ledger, record: ledger.claim("w", ["default"]),
    ],
    ids=["pause", "submit", "purge", "claim"],
)
def test_a_viewer_changes_nothing(ledger_of, change):
    record = make_record(shards=1)
    ledger_of("producer").register(record)
    with pytest.raises(BrokerRefusedError, match="permission"):
        change(ledger_of("viewer"), record)
    assert ledger_of("producer").status(record.job).state is not JobState.PAUSED


@pytest.mark.parametrize("user", ["producer", "worker", "viewer"])
@pytest.mark.parametrize(
    "command",
    [
        "KEYS *",
        "FLUSHALL",
        "CONFIG GET *",
        "GET another",
        "PUBLISH a b",
        "EVAL return 0",
        "SHUTDOWN",
        "ACL LIST",
        "SAVE",
    ],
)
def test_nobody_leaves_our_keys_or_touches_the_server(url_of, user, command):
    with redis.Redis.from_url(url_of(user)) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split())


def test_a_stranger_is_told_so_without_the_password(port):
    with pytest.raises(ParquetryError) as refused:
        connect(f"redis://worker:planted@127.0.0.1:{port}/0")
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize(
    ("user", "level", "said"),
    [
        ("worker", Level.OK, "may do all"),
        ("producer", Level.WARNING, "for running them it lacks BRPOP"),
        ("viewer", Level.WARNING, "for submitting and changing them it lacks SET, PEXPIRE, DEL, HSET"),
    ],
)
def test_doctor_names_what_a_user_lacks(url_of, env, user, level, said):
    found = check_permissions(connect(url_of(user)), env)
    assert (found.level, said in found.text) == (level, True), found.text
    assert user in found.text and "looking at jobs" not in found.text


def test_a_worker_serves_a_job_under_its_user(url_of, ledger_of, start_worker, tmp_path):
    job = make_job(tmp_path, ledger_of("producer"), rows=40)
    start_worker(url_of("worker"))
    viewer = ledger_of("viewer")
    wait_until(lambda: viewer.status(job.name).state is JobState.DONE, 60, "the job to be done")
    assert job.rows() == list(range(40))
