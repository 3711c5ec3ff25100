"""Connections: URLs, refusals, findings; permits as Celery will see them."""

from __future__ import annotations

import base64
import json
import threading

import pytest
from redis.exceptions import ResponseError

from parquetry.schemas.errors import BrokerRefusedError, BrokerUnreachableError
from parquetry.schemas.permit import PERMIT_TASK, Permit
from parquetry.tasks import permits
from parquetry.tasks.broker.connection import connect, is_passing
from parquetry.tasks.broker.settings_check import check
from parquetry.tasks.broker.waiting import wait_for_broker
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.node.stall_check import STALL_S, StallCheck
from tests.integration.records import make_record


def test_absent_broker_is_named_without_its_password():
    with pytest.raises(BrokerUnreachableError) as caught:
        connect("redis://user:secret@127.0.0.1:1/0")
    assert "127.0.0.1:1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_absent_socket_is_unreachable(tmp_path):
    with pytest.raises(BrokerUnreachableError, match="redis\\+socket:///"):
        connect(f"redis+socket://{tmp_path}/none")


def test_absent_sentinel_is_unreachable():
    with pytest.raises(BrokerUnreachableError, match=r"sentinel://127\.0\.0\.1:1/mymaster"):
        connect("sentinel://:secret@127.0.0.1:1/mymaster")


def test_a_password_that_is_not_taken_is_refused_and_not_waited_for(fresh_server):
    with connect(fresh_server.url) as client:
        client.config_set("requirepass", "secret")
    wrong = fresh_server.url.replace("://", "://:guessed@")
    for url in (fresh_server.url, wrong):
        with pytest.raises(BrokerRefusedError, match=r"(?i)authenticat|WRONGPASS|invalid username-password") as caught:
            wait_for_broker(url, None, threading.Event())
        assert "guessed" not in str(caught.value)


def test_only_the_replies_that_pass_are_waited_for():
    assert is_passing(ResponseError("BUSY Valkey is busy running a script"))
    assert not is_passing(ResponseError("BUSYGROUP Consumer Group name already exists"))


def test_sentinel_without_a_master_is_refused():
    with pytest.raises(BrokerRefusedError, match="names its master"):
        connect("sentinel://127.0.0.1:26379")


def test_cluster_is_refused_with_the_reason(cluster_server):
    with pytest.raises(BrokerRefusedError, match=r"Redis Cluster.*Sentinel"):
        connect(cluster_server.url)


def test_a_call_after_the_broker_went_away_raises_ours(fresh_server, env, policy):
    client = connect(fresh_server.url)
    ledger = Ledger(client, env, policy)
    fresh_server.kill()
    with pytest.raises(BrokerUnreachableError):
        ledger.jobs()
    with pytest.raises(BrokerUnreachableError):
        ledger.claim("w", ("default",))
    client.close()


def test_jobs_outlive_a_restart_with_an_append_only_file(fresh_server, env, policy):
    client = connect(fresh_server.url)
    ledger = Ledger(client, env, policy)
    ledger.register(make_record(shards=3))
    ledger.claim("w", ("default",))
    fresh_server.kill()
    fresh_server.start()
    status = ledger.status("job-1")
    assert (status.shards_running, status.shards_pending) == (1, 2)
    client.close()


def test_findings_tell_what_to_do(server, fresh_server):
    findings = {finding.name: finding for finding in check(server.url)}
    assert not findings["append-only file"].is_ok
    assert "appendonly yes" in findings["append-only file"].fix
    assert findings["eviction"].is_ok
    with connect(fresh_server.url) as client:
        assert all(finding.is_ok for finding in check(client))
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert [finding.name for finding in check(client) if not finding.is_ok] == ["eviction"]


def test_permit_on_the_wire_is_small_json_and_names_no_shard(server, ledger: Ledger, client, keys):
    permits.issue(server.url, "gpu", 2, env=ledger.env)
    key = f"{keys.prefix}permits.gpu"
    message = client.lindex(key, 0)
    assert len(message) <= 1024
    envelope = json.loads(message)
    assert envelope["headers"]["task"] == PERMIT_TASK
    assert envelope["content-type"] == "application/json"
    (body,), _, _ = json.loads(base64.b64decode(envelope["body"]))
    assert Permit.decode(body) == Permit(queue="gpu", issued_by="submit")
    assert ledger.permits("gpu") == 2


def test_permits_are_topped_up_to_twice_the_shards_in_flight(server, ledger: Ledger, client, keys):
    ledger.register(make_record(shards=100))
    announce(ledger, "a", 3)
    announce(ledger, "b", 2)
    assert permits.top_up(ledger, server.url, "default", issued_by="test") == 10
    assert permits.top_up(ledger, server.url, "default", issued_by="test") == 0
    client.lpop(f"{keys.prefix}permits.default")
    assert permits.top_up(ledger, server.url, "default", issued_by="test") == 1


def test_no_more_permits_than_pending_shards(server, ledger: Ledger):
    ledger.register(make_record(shards=3))
    announce(ledger, "a", 50)
    assert permits.top_up(ledger, server.url, "default", issued_by="test") == 3


def test_permits_wait_for_the_first_worker(server, ledger: Ledger):
    ledger.register(make_record(shards=100))
    assert permits.top_up(ledger, server.url, "default", issued_by="test") == 2


def test_unreachable_broker_gets_no_permit(tmp_path):
    with pytest.raises(BrokerUnreachableError):
        permits.issue(f"redis+socket://{tmp_path}/none", "default", 1, env="x")


def test_roster_tells_who_lives(ledger: Ledger, client, keys):
    announce(ledger, "b", 2)
    announce(ledger, "a", 1, queues=("gpu", "default"))
    workers = ledger.workers()
    assert [(w.worker, w.shards_in_flight, w.queue, w.host) for w in workers] == [
        ("a", 1, "gpu,default", "h"),
        ("b", 2, "default", "h"),
    ]
    assert (ledger.roster.shards_in_flight("default"), ledger.roster.shards_in_flight("gpu")) == (3, 1)
    client.zadd(keys.workers, {"b": 1})
    assert [worker.worker for worker in ledger.workers()] == ["a"]
    ledger.roster.retire("a")
    assert ledger.workers() == []


def announce(ledger: Ledger, name: str, shards_in_flight: int, queues: tuple[str, ...] = ("default",)) -> None:
    ledger.roster.announce(name, host="h", device="cpu", queues=queues, shards_in_flight=shards_in_flight)


def test_worker_that_leaves_permits_lying_is_noticed(server, ledger: Ledger):
    ledger.register(make_record(shards=4))
    now = [0.0]
    stall_check = StallCheck("w", ("default",), 2, clock=lambda: now[0])

    def later(seconds: float) -> bool:
        now[0] += seconds
        return stall_check.is_stalled(ledger)

    assert not later(1000), "nothing was asked of it"
    permits.issue(server.url, "default", 2, env=ledger.env)
    assert not later(1000), "the permits came a moment ago"
    assert not later(STALL_S - 1)
    ledger.claim("w", ("default",))
    assert not later(2), "it has just come for a shard"
    assert not later(1)
    assert later(STALL_S + 1)
    ledger.claim("w", ("default",))
    assert not later(1000)
    assert not later(1000), "both of its children run a shard"
