"""A broker behind TLS: the ledger, the permits and a whole worker, and certificates that nobody vouches for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from parquetry.schemas.errors import BrokerRefusedError
from parquetry.schemas.progress.states import JobState
from parquetry.tasks import permits
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.checker import check
from tests.chaos.process import wait_until
from tests.integration.jobs_on_disk import make_job
from tests.integration.records import make_record
from tests.integration.tls import Authority, TlsEnd


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def end(tcp_server, authority) -> Iterator[TlsEnd]:
    end = TlsEnd(tcp_server.port, authority.context())
    yield end
    end.close()


@pytest.fixture
def url(end: TlsEnd, authority: Authority) -> str:
    """As a user would write it."""
    return f"{end.url}?ssl_ca_certs={authority.path}"


def test_ledger_and_permits_speak_tls(url, env):
    with connect(url) as client:
        ledger = Ledger(client, env)
        assert ledger.url.startswith("rediss://127.0.0.1:")
        ledger.register(make_record(shards=3))
        assert permits.top_up(ledger, url, "default", issued_by="test") == 2
        assert ledger.permits("default") == 2


def test_worker_serves_a_job_over_tls(url, env, tmp_path, start_worker):
    with connect(url) as client:
        ledger = Ledger(client, env)
        job = make_job(tmp_path, ledger, rows=40)
        start_worker(url)
        wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 40, "the end of the job")
    assert check(tmp_path / "out", job.table).violations == []


def test_certificate_of_an_unknown_authority_is_refused(end):
    with pytest.raises(BrokerRefusedError, match=r"not to be trusted.*ssl_ca_certs="):
        connect(end.url)


def test_permits_are_not_told_to_an_unknown_authority_either(end, env):
    with pytest.raises(BrokerRefusedError, match="not to be trusted"):
        permits.issue(end.url, "default", 1, env=env)


def test_worker_says_why_it_does_not_start(end, start_worker):
    worker = start_worker(end.url)
    assert worker.wait(30) == 2
    assert "name its CA in the URL" in worker.tail()


def test_worker_names_the_host_of_a_certificate_that_is_not_its_own(url, end):
    with pytest.raises(BrokerRefusedError, match="not to be trusted"):
        connect(url.replace("127.0.0.1", "localhost"))
