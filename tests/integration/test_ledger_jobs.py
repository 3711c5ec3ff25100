"""Jobs in the ledger: registered, paused, cancelled, retried, listed."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import IllegalTransitionError, UnknownJobError
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.claim import CommitReply, ReleaseReply
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.reconciler import AUDIT_EVERY, Reconciler
from tests.chaos.process import wait_until
from tests.integration.records import make_part, make_record

QUEUES = ("default",)


def test_register_twice_changes_nothing(ledger: Ledger):
    assert ledger.register(make_record(shards=3))
    ledger.claim("w", QUEUES)
    assert not ledger.register(make_record(shards=3))
    status = ledger.status("job-1")
    assert (status.shards_running, status.shards_pending) == (1, 2)


def test_register_with_committed_parts_runs_the_others(ledger: Ledger):
    done = [make_part(shard, error_rows=1, output_tokens=7) for shard in (0, 2)]
    ledger.register(make_record(shards=4), done=done)
    status = ledger.status("job-1")
    assert (status.shards_done, status.rows_done, status.error_rows, status.output_tokens) == (2, 20, 2, 14)
    assert [ledger.claim("w", QUEUES).shard for _ in range(2)] == [1, 3]
    assert ledger.claim("w", QUEUES) is None
    assert ledger.committed("job-1") == {0, 2}
    assert [digest is not None for digest in ledger.digests.read("job-1", 4)] == [True, False, True, False]


def test_status_tells_labels_and_numbers(ledger: Ledger):
    record = make_record(shards=2, priority=3, model="a/b", output="/data/out")
    ledger.register(record, queue="gpu")
    status = ledger.status("job-1")
    assert (status.task, status.model, status.output, status.queue) == ("embed", "a/b", "/data/out", "gpu")
    assert (status.priority, status.state, status.rows) == (3, JobState.RUNNING, 20)
    assert status.created <= status.now
    assert status.ended is None


def test_jobs_come_newest_first(ledger: Ledger, client, keys):
    for number in range(3):
        ledger.register(make_record(f"job-{number}"))
        client.zadd(keys.jobs, {f"job-{number}": number})
    assert [status.job for status in ledger.jobs()] == ["job-2", "job-1", "job-0"]


def test_unknown_job_suggests_the_nearest(ledger: Ledger):
    ledger.register(make_record("embed-123"))
    for call in (ledger.status, ledger.retry, ledger.audit, lambda job: ledger.set_state(job, JobState.PAUSED)):
        with pytest.raises(UnknownJobError, match="embed-123"):
            call("embed-124")


def test_paused_job_is_not_claimed_and_a_written_shard_may_be_published(ledger: Ledger):
    ledger.register(make_record(shards=2))
    claim = ledger.claim("w", QUEUES)
    assert ledger.set_state("job-1", JobState.PAUSED) is JobState.RUNNING
    assert ledger.claim("w", QUEUES) is None
    assert ledger.beat(claim) == "PAUSE"
    assert ledger.prepare(claim) == "OK"
    assert ledger.commit(claim, make_part(0)) is CommitReply.COMMITTED
    ledger.set_state("job-1", JobState.RUNNING)
    assert ledger.claim("w", QUEUES).shard == 1


def test_shard_given_back_to_a_paused_job_waits_for_resume(ledger: Ledger):
    ledger.register(make_record(shards=1))
    claim = ledger.claim("w", QUEUES)
    ledger.set_state("job-1", JobState.PAUSED)
    ledger.release(claim)
    assert ledger.claim("w", QUEUES) is None
    ledger.set_state("job-1", JobState.RUNNING)
    assert ledger.claim("w", QUEUES).shard == 0


def test_cancelled_job_stops_its_shards_and_can_be_taken_up(ledger: Ledger):
    ledger.register(make_record(shards=2))
    claim = ledger.claim("w", QUEUES)
    ledger.set_state("job-1", JobState.CANCELLED)
    assert ledger.status("job-1").ended is not None
    assert (ledger.beat(claim), ledger.prepare(claim)) == ("CANCEL", "CANCEL")
    assert ledger.claim("w", QUEUES) is None
    assert ledger.release(claim) is ReleaseReply.OK
    ledger.set_state("job-1", JobState.RUNNING)
    assert ledger.status("job-1").ended is None
    assert ledger.claim("w", QUEUES).shard == 0


def test_part_published_before_the_cancel_counts(ledger: Ledger):
    ledger.register(make_record(shards=2))
    claim = ledger.claim("w", QUEUES)
    ledger.set_state("job-1", JobState.CANCELLED)
    assert ledger.commit(claim, make_part(0)) is CommitReply.COMMITTED


@pytest.mark.parametrize("wanted", [JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED])
def test_done_job_stays_done(ledger: Ledger, wanted: JobState):
    ledger.register(make_record(shards=1))
    ledger.set_state("job-1", JobState.DONE)
    with pytest.raises(IllegalTransitionError, match="is done, so it cannot be"):
        ledger.set_state("job-1", wanted)
    assert ledger.set_state("job-1", JobState.DONE) is JobState.DONE


def test_retry_queues_failed_shards_only(ledger: Ledger):
    ledger.register(make_record(shards=3))
    claims = [ledger.claim("w", QUEUES) for _ in range(3)]
    assert ledger.fail(claims[0], "no: such model") is ReleaseReply.OK
    ledger.commit(claims[1], make_part(1))
    assert ledger.fail(claims[2], "why not") is ReleaseReply.LAST
    failures = ledger.status("job-1").failures
    assert [(f.shard, f.attempts, f.reason) for f in failures] == [(0, 1, "no: such model"), (2, 1, "why not")]
    ledger.set_state("job-1", JobState.FAILED)

    assert ledger.retry("job-1") == 2
    status = ledger.status("job-1")
    assert (status.state, status.shards_failed, status.shards_pending, status.ended) == ("running", 0, 2, None)
    assert [ledger.claim("w", QUEUES).shard for _ in range(2)] == [0, 2]
    assert ledger.retry("job-1") == 0


def test_forget_keeps_what_status_tells(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=1))
    ledger.commit(ledger.claim("w", QUEUES), make_part(0))
    ledger.forget("job-1")
    assert list(ledger.digests.read("job-1", 1)) != [None]
    ledger.set_state("job-1", JobState.DONE)
    ledger.forget("job-1")
    left = {key.rpartition(":")[2] for key in client.scan_iter(f"{keys.prefix}{{job-1}}:*")}
    assert left == {"ctl", "done", "past", "evts"}
    assert ledger.status("job-1").rows_done == 10


def test_environments_do_not_see_each_other(ledger: Ledger, client, policy):
    other = Ledger(client, "other", policy)
    ledger.register(make_record())
    assert other.jobs() == []
    assert other.claim("w", QUEUES) is None


def test_census_forgets_jobs_that_need_nobody_until_they_do_again(ledger: Ledger, client, keys):
    for job in ("done", "failed", "cancelled"):
        ledger.register(make_record(job, shards=1))
        ledger.fail(ledger.claim("w", QUEUES), "no")
        ledger.set_state(job, JobState(job))
    assert ledger.census() == []
    assert client.scard(keys.live) == 0
    ledger.retry("failed")
    ledger.set_state("cancelled", JobState.RUNNING)
    assert {entry.job for entry in ledger.census()} == {"failed", "cancelled"}


def test_a_removed_job_leaves_no_key(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=3))
    ledger.commit(ledger.claim("w", QUEUES), make_part(0))
    running, failed = (ledger.claim("w", QUEUES) for _ in range(2))
    ledger.fail(failed, "no")
    assert ledger.remove("job-1")
    assert client.keys(f"{keys.prefix}*") == [keys.worker("w")]
    assert ledger.beat(running) == "LOST"
    assert ledger.commit(running, make_part(running.shard)) is CommitReply.FENCED
    assert ledger.claim("w", QUEUES) is None


def test_a_job_registered_anew_is_not_removed_by_who_saw_the_old_one(ledger: Ledger, client):
    ledger.register(make_record(shards=1))
    seen = ledger.status("job-1").created
    ledger.remove("job-1", created=seen)
    wait_until(lambda: client.time()[0] >= seen + 1, 5, "the server's clock to go on")
    ledger.register(make_record(shards=2))
    assert not ledger.remove("job-1", created=seen)
    assert ledger.status("job-1").shards_pending == 2
    assert ledger.remove("job-1", created=ledger.status("job-1").created)


def test_a_token_of_a_removed_job_is_not_given_again(ledger: Ledger, client):
    ledger.register(make_record(shards=1))
    old = ledger.claim("w", QUEUES)
    ledger.remove("job-1")
    wait_until(lambda: client.time()[0] >= old.fence, 5, "the server's clock to go on")
    ledger.register(make_record(shards=1))
    assert ledger.claim("w", QUEUES).fence > old.fence
    assert ledger.beat(old) == "LOST"


@pytest.mark.parametrize("state", [JobState.DONE, JobState.FAILED, JobState.CANCELLED])
def test_jobs_that_ended_long_ago_are_forgotten(state, ledger: Ledger, client, server, keys):
    day_ms = 86_400_000
    for job in ("old", "fresh", "running", "paused"):
        ledger.register(make_record(job))
    ledger.set_state("paused", JobState.PAUSED)
    for job, days in (("old", 31), ("fresh", 29)):
        ledger.set_state(job, state)
        ended = int(client.hget(keys.of_job(job, "ctl"), "ended"))
        client.hset(keys.of_job(job, "ctl"), "ended", ended - days * day_ms)
    for job in ledger.job_names():
        client.zincrby(keys.jobs, -40 * day_ms, job)
    reconciler = Reconciler(ledger, server.url, 5.0)
    for _ in range(AUDIT_EVERY):
        reconciler.reconcile()
    assert sorted(ledger.job_names()) == ["fresh", "paused", "running"]
    assert client.keys(f"{keys.prefix}{{old}}*") == []
