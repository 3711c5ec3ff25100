"""Webhooks: told once a job has ended, signed, again until they answer, by any of many nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from parquetry.tasks import webhooks
from parquetry.tasks.ledger import outbox
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.webhooks import deliver_due, sign
from tests.integration.receiver import Receiver, receiving
from tests.integration.records import make_record

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as kept:
        yield kept


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Iterator[None]:
    monkeypatch.setenv("PARQUETRY_WEBHOOK_SECRET", SECRET)
    listed = [receiver.url.removesuffix("/hook?x=1"), "http://127.0.0.1:9", "localhost", "*.parquetry.invalid"]
    monkeypatch.setenv("PARQUETRY_WEBHOOK_HOSTS", json.dumps(listed))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def job(ledger: Ledger, receiver: Receiver) -> str:
    record = make_record(shards=3, notify=[receiver.url])
    ledger.register(record)
    return record.job


def test_the_signature_of_the_specifications_example():
    wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}') == wanted


def test_who_asked_is_told_once(job, ledger, receiver):
    assert deliver_due(ledger) == 0
    ledger.set_state(job, JobState.FAILED)
    assert deliver_due(ledger) == 1
    assert deliver_due(ledger, ahead_s=10**6) == 0
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["type"], told["job"], told["rows"], told["shards"]) == ("job.failed", job, 30, 3)
    assert headers["content-type"] == "application/json"
    signature = sign(SECRET, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == signature


@pytest.mark.parametrize("answer", [500, 302, 404])
def test_a_refused_notice_comes_again_under_the_same_id(job, ledger, receiver, answer):
    receiver.answers = [answer]
    ledger.set_state(job, JobState.CANCELLED)
    assert deliver_due(ledger) == 0
    # not at once
    assert deliver_due(ledger) == 0
    assert deliver_due(ledger, ahead_s=30) == 1
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 2


def test_one_that_nobody_answers_is_given_up(ledger, monkeypatch, caplog):
    monkeypatch.setattr(webhooks, "MAX_TRIES", 2)
    record = make_record(notify=["http://127.0.0.1:9/closed"])
    ledger.register(record)
    ledger.set_state(record.job, JobState.FAILED)
    assert deliver_due(ledger) == 0
    assert deliver_due(ledger, ahead_s=30) == 0
    assert ledger.outbox.take(ahead_s=10**6) is None
    assert "was not told (ConnectError" in caplog.text
    assert "in 2 tries" in caplog.text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://localhost/hook?token=planted", "localhost is at"),
        ("http://localhost/hook?token=planted", "must be an https:// address"),
        ("https://169.254.169.254/latest?token=planted", "not one that the operator lists"),
        ("https://name.parquetry.invalid/hook?token=planted", "gaierror"),
    ],
)
def test_no_notice_goes_where_the_operator_does_not_list_or_we_alone_can_see(ledger, caplog, url, said):
    record = make_record(notify=[url])
    ledger.register(record)
    ledger.set_state(record.job, JobState.FAILED)
    assert deliver_due(ledger) == 0
    assert said in caplog.text
    assert "planted" not in caplog.text


def test_every_end_is_told(job, ledger, receiver):
    for state in (JobState.CANCELLED, JobState.RUNNING, JobState.PAUSED, JobState.DONE):
        ledger.set_state(job, state)
    assert deliver_due(ledger) == 2
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["job.cancelled", "job.done"]


def test_a_notice_outlives_whoever_took_it(job, ledger, monkeypatch, receiver):
    monkeypatch.setattr(outbox, "FIRST_REST_MS", 1)
    ledger.set_state(job, JobState.DONE)
    first = ledger.outbox.take()
    while (again := ledger.outbox.take()) is None:
        pass
    assert (first.tries, again.tries, again.member) == (1, 2, first.member)


def test_a_job_the_queue_has_forgotten_is_still_told(job, ledger, receiver):
    ledger.set_state(job, JobState.DONE)
    ledger.remove(job)
    assert deliver_due(ledger) == 1
    assert json.loads(receiver.got[0][1])["type"] == "job.done"


def test_without_a_secret_nothing_is_sent_or_lost(job, ledger, monkeypatch, receiver):
    ledger.set_state(job, JobState.DONE)
    monkeypatch.delenv("PARQUETRY_WEBHOOK_SECRET")
    settings.cache_clear()
    assert deliver_due(ledger) == 0
    assert ledger.outbox.take().tries == 1
    ledger.outbox.drop(job)
    assert ledger.outbox.take(ahead_s=10**6) is None
