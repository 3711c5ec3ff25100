"""Jobs by what users call them, and what a shell completes, on a real server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from parquetry.schemas.errors import AmbiguousJobError, UnknownJobError
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.ledger import Ledger
from tests.integration.records import make_part, make_record

QUEUES = ("default",)


@pytest.fixture
def jobs(ledger: Ledger, client, keys) -> Ledger:
    for number, (job, name) in enumerate((("embed-aa1", "nightly"), ("embed-ab2", None), ("score-cc3", "embed-ab"))):
        ledger.register(make_record(job, name=name))
        client.zadd(keys.jobs, {job: number})
    return ledger


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("embed-aa1", "embed-aa1"),
        ("embed-aa", "embed-aa1"),
        ("s", "score-cc3"),
        ("nightly", "embed-aa1"),
        # a name goes before the beginning of an id
        ("embed-ab", "score-cc3"),
        ("@last", "score-cc3"),
    ],
)
def test_a_job_is_found_by_what_it_is_called(jobs: Ledger, text: str, job: str):
    assert jobs.find(text) == job


def test_what_means_two_jobs_or_none_is_refused(jobs: Ledger):
    with pytest.raises(AmbiguousJobError, match="any of 2 jobs: embed-ab2, embed-aa1"):
        jobs.find("embed-a")
    for text in ("embed-ac", "", "ightly", "@first"):
        with pytest.raises(UnknownJobError):
            jobs.find(text)
    jobs.register(make_record("embed-ad4", name="nightly"))
    with pytest.raises(AmbiguousJobError, match="nightly may be any of 2"):
        jobs.find("nightly")


def test_an_empty_broker_has_no_last_job(ledger: Ledger):
    with pytest.raises(UnknownJobError):
        ledger.find("@last")


def test_a_damaged_record_hides_no_other(jobs: Ledger, client, keys):
    client.delete(keys.of_job("embed-ab2", "ctl"))
    client.set(keys.of_job("embed-ab2", "ctl"), "damaged")
    assert jobs.find("nightly") == "embed-aa1"


def test_a_name_is_shown_and_makes_no_other_job():
    plain, named = make_record(), make_record(name="nightly")
    assert plain.spec.fingerprint == named.spec.fingerprint
    assert named.spec.name == "nightly"


def test_priority_changes_what_is_claimed_next_and_nothing_else(ledger: Ledger):
    for job in ("first", "second"):
        ledger.register(make_record(job, shards=3))
    running = ledger.claim("w", QUEUES)
    other = "second" if running.job == "first" else "first"
    assert ledger.prioritize(other, 2) == 5
    assert [ledger.claim("w", QUEUES).job for _ in range(3)] == [other] * 3
    assert ledger.prioritize(running.job, 0) == 5
    assert ledger.claim("w", QUEUES).job == running.job
    assert ledger.commit(running, make_part(running.shard)) == "COMMITTED"
    assert ledger.status(other).priority == 2


def test_priority_of_a_job_that_is_not_open_opens_nothing(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=2))
    ledger.set_state("job-1", JobState.PAUSED)
    ledger.prioritize("job-1", 1)
    assert ledger.claim("w", QUEUES) is None
    ledger.set_state("job-1", JobState.RUNNING)
    assert client.zscore(keys.open, "job-1") == 1
    with pytest.raises(UnknownJobError):
        ledger.prioritize("job-2", 1)


def completed(line: str, **environment: str) -> list[str]:
    """What bash would offer behind this line."""
    words = line.split(" ")
    asked = {"_PARQUETRY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv[0] = 'parquetry'; from parquetry.cli import app; app(prog_name='parquetry')"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked, **environment}, capture_output=True, text=True
    )
    return ran.stdout.split()


def test_a_shell_completes_jobs_and_keys(jobs: Ledger, server, env: str):
    broker = {"PARQUETRY_BROKER_URL": server.url, "PARQUETRY_ENV": env}
    assert completed("parquetry status embed-a", **broker) == ["embed-ab2", "embed-aa1", "embed-ab"]
    assert completed("parquetry pause @", **broker) == ["@last"]
    assert completed("parquetry run job.yaml --set model.quant") == ["model.quantization="]
    assert completed("parquetry status e", PARQUETRY_BROKER_URL="redis+socket:///nowhere/s") == []


def test_values_that_a_key_may_have_are_completed():
    from parquetry.commands.completion import complete_keys

    assert complete_keys("model.compile=") == ["model.compile=true", "model.compile=false"]
    assert complete_keys("model.quantization=n") == ["model.quantization=none", "model.quantization=nf4"]
    assert complete_keys("prompt.chat=a") == ["prompt.chat=auto"]
    assert complete_keys("no.key=") == []
