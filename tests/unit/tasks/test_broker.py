"""Broker URLs, Celery's settings, versions: what needs no server."""

from __future__ import annotations

import subprocess
import sys

import pytest

from parquetry.schemas.errors import BrokerRefusedError
from parquetry.tasks.broker.connection import connect, kombu_url, redis_url, transport_options
from parquetry.tasks.broker.sentinel import SentinelUrl
from parquetry.tasks.broker.settings_check import FIXED_REDIS, is_fixed
from parquetry.tasks.node.app import make_app


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("rediss://u:p@h/0", "rediss://u:p@h/0"),
        ("redis+socket:///run/r.sock", "unix:///run/r.sock?db=0"),
        ("redis+socket:///run/r.sock?virtual_host=3", "unix:///run/r.sock?db=3"),
        ("redis+socket://u:p@/run/r.sock", "unix://u:p@/run/r.sock?db=0"),
    ],
)
def test_redis_url(url: str, ours: str):
    assert redis_url(url) == ours


def test_sentinel_url():
    url = "sentinel://u:p%40@a:1,b/mymaster/2"
    parsed = SentinelUrl.parse(url)
    assert parsed.hosts == (("a", 1), ("b", 26379))
    assert (parsed.master, parsed.db) == ("mymaster", 2)
    assert kombu_url(url) == "sentinel://u:p%40@a:1/2;sentinel://u:p%40@b:26379/2"
    assert transport_options(url, "e")["master_name"] == "mymaster"


@pytest.mark.parametrize(
    ("url", "theirs"),
    [
        ("rediss://h/0", "rediss://h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca", "rediss://h/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis://h/0", "redis://h/0"),
    ],
)
def test_permits_never_go_to_a_tls_broker_in_plain_text(url: str, theirs: str):
    assert kombu_url(url) == theirs


@pytest.mark.parametrize("url", ["sentinel://a", "sentinel://a/", "sentinel://:secret@a/m/x"])
def test_sentinel_url_without_master_is_refused(url: str):
    with pytest.raises(BrokerRefusedError) as caught:
        SentinelUrl.parse(url)
    assert "secret" not in str(caught.value)


def test_celery_takes_no_pickle_and_acknowledges_early():
    conf = make_app("redis://localhost", "e", ("a", "b")).conf
    assert conf.accept_content == ["json"]
    assert not conf.task_acks_late
    assert conf.task_ignore_result
    assert conf.worker_disable_prefetch
    assert conf.broker_transport_options["global_keyprefix"] == "pq:e:"
    assert [queue.name for queue in conf.task_queues] == ["permits.a", "permits.b"]
    assert conf.task_default_queue == "permits.a"


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("7.0.15", False),
        ("7.4.6", True),
        ("8.2.2", True),
        ("8.2.1", False),
        ("9.0.0", True),
        ("5.0.7", False),
        ("unknown", True),
    ],
)
def test_versions_with_the_lua_fix(version: str, fixed: bool):
    assert is_fixed(version, FIXED_REDIS) == fixed


def test_ledger_and_permits_load_no_celery_and_no_torch():
    code = (
        "import sys, parquetry.tasks.ledger.ledger, parquetry.tasks.permits, parquetry.tasks.recovery;"
        "print([m for m in sys.modules if m.split('.')[0] in ('celery', 'torch', 'transformers')])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["redis://:planted#word@host:6379/0", "redis://user:planted/word@host:6379"])
def test_a_password_with_signs_is_not_shown_as_a_port(url: str):
    with pytest.raises(BrokerRefusedError, match="%23") as refused:
        connect(url)
    assert "planted" not in str(refused.value)
