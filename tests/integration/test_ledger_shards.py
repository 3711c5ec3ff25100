"""Shards in the ledger: claimed, renewed, committed once, given back, reaped."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter

import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import part_name
from parquetry.tasks.broker.connection import connect
from parquetry.tasks.ledger.claim import BeatReply, Claim, CommitReply, LeaseProgress, PrepareReply, ReleaseReply
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from tests.integration.records import in_threads, make_part, make_record

QUEUES = ("default",)
#: a lease that is over before the next command
INSTANT = Policy(lease_s=0.001, max_attempts=3, starvation_s=300.0, quarantine_attempts=0)


def expired(ledger: Ledger) -> Ledger:
    """The same ledger, whose leases end at once."""
    hasty = copy.copy(ledger)
    hasty.policy = INSTANT
    return hasty


def claim_and_expire(ledger: Ledger, worker: str = "zombie") -> Claim:
    claim = expired(ledger).claim(worker, QUEUES)
    time.sleep(0.003)
    return claim


def test_fences_rise_and_no_shard_is_leased_twice(ledger: Ledger):
    ledger.register(make_record(shards=5))
    claims = [ledger.claim("w", QUEUES) for _ in range(5)]
    assert [claim.fence - claims[0].fence for claim in claims] == [0, 1, 2, 3, 4]
    assert [claim.shard for claim in claims] == [0, 1, 2, 3, 4]
    assert ledger.claim("w", QUEUES) is None


def test_claimers_that_race_never_share_a_shard(server, ledger: Ledger):
    ledger.register(make_record(shards=200))
    taken: list[int] = []

    def work() -> None:
        with connect(server.url) as client:
            mine = Ledger(client, ledger.env, ledger.policy)
            while claim := mine.claim("w", QUEUES):
                taken.append(claim.shard)

    in_threads(work, 4)
    assert sorted(taken) == list(range(200))


def test_beat_extends_the_lease_and_shows_progress(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=1))
    claim = ledger.claim("w", QUEUES)
    key = keys.of_job("job-1", "lease")
    before = client.zscore(key, "0")
    time.sleep(0.005)
    assert ledger.beat(claim, LeaseProgress(rows=7, prompt_tokens=70)) is BeatReply.OK
    assert client.zscore(key, "0") > before
    status = ledger.status("job-1")
    assert (status.running_rows, status.rows_done) == (7, 0)


def test_progress_leaves_with_the_lease(ledger: Ledger):
    ledger.register(make_record(shards=1))
    claim = ledger.claim("w", QUEUES)
    ledger.beat(claim, LeaseProgress(rows=7))
    ledger.release(claim)
    assert ledger.status("job-1").running_rows == 0


def test_second_commit_is_told_apart_and_counts_nothing(ledger: Ledger):
    ledger.register(make_record(shards=2))
    claim = ledger.claim("w", QUEUES)
    part = make_part(0, error_rows=2, prompt_tokens=5, output_tokens=6)
    assert ledger.commit(claim, part) is CommitReply.COMMITTED
    assert ledger.commit(claim, part) is CommitReply.ALREADY
    status = ledger.status("job-1")
    assert (status.rows_done, status.error_rows, status.prompt_tokens, status.output_tokens) == (10, 2, 5, 6)
    assert ledger.beat(claim) is BeatReply.LOST


def test_zombie_is_fenced_at_every_verb(ledger: Ledger):
    ledger.register(make_record(shards=1))
    zombie = claim_and_expire(ledger)
    ledger.reap("job-1")
    heir = ledger.claim("heir", QUEUES)
    assert heir.fence > zombie.fence
    assert ledger.beat(zombie) is BeatReply.LOST
    assert ledger.prepare(zombie) is PrepareReply.LOST
    assert ledger.commit(zombie, make_part(0)) is CommitReply.FENCED
    for give_back in (ledger.release, lambda z: ledger.lose(z, "?"), lambda z: ledger.fail(z, "?")):
        assert give_back(zombie) is ReleaseReply.LOST
    assert ledger.commit(heir, make_part(0, fence=heir.fence)) is CommitReply.LAST


def test_expired_lease_counts_until_somebody_reaps_it(ledger: Ledger):
    """The fence decides, not the clock: an owner that was slow but not replaced has done no harm."""
    ledger.register(make_record(shards=1))
    slow = claim_and_expire(ledger)
    assert ledger.prepare(slow) is PrepareReply.SHORT
    assert ledger.beat(slow) is BeatReply.OK
    assert ledger.prepare(slow) is PrepareReply.OK


def test_verified_part_in_storage_beats_every_token(ledger: Ledger):
    ledger.register(make_record(shards=2))
    holder = ledger.claim("holder", QUEUES)
    assert ledger.adopt("job-1", make_part(0, fence=9)) is CommitReply.COMMITTED
    assert ledger.beat(holder) is BeatReply.LOST
    assert ledger.commit(holder, make_part(0)) is CommitReply.ALREADY


def test_adopted_shard_is_skipped_where_it_waited(ledger: Ledger):
    ledger.register(make_record(shards=3))
    ledger.adopt("job-1", make_part(0))
    ledger.adopt("job-1", make_part(1))
    assert ledger.claim("w", QUEUES).shard == 2
    assert ledger.claim("w", QUEUES) is None


def test_commit_of_a_job_the_broker_forgot_is_fenced(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=1))
    claim = ledger.claim("w", QUEUES)
    client.delete(*keys.job("job-1"))
    assert ledger.commit(claim, make_part(0)) is CommitReply.FENCED
    assert ledger.beat(claim) is BeatReply.LOST


def test_last_is_said_once_however_many_commit_at_once(server, ledger: Ledger):
    ledger.register(make_record(shards=40))
    claims = [ledger.claim("w", QUEUES) for _ in range(40)]
    replies: list[CommitReply] = []
    todo = iter(claims)
    gate = threading.Lock()

    def work() -> None:
        with connect(server.url) as client:
            mine = Ledger(client, ledger.env, ledger.policy)
            while claim := take(todo, gate):
                for _ in range(2):
                    replies.append(mine.commit(claim, make_part(claim.shard)))

    in_threads(work, 8)
    assert Counter(replies) == {"COMMITTED": 39, "LAST": 1, "ALREADY": 40}


def test_release_does_not_count_as_an_attempt(ledger: Ledger):
    ledger.register(make_record(shards=1))
    for _ in range(10):
        assert ledger.release(ledger.claim("w", QUEUES)) is ReleaseReply.OK
    status = ledger.status("job-1")
    assert (status.retries, status.shards_pending, status.shards_failed) == (0, 1, 0)


def test_released_shard_is_the_next_one_claimed(ledger: Ledger):
    ledger.register(make_record(shards=9))
    ledger.release(ledger.claim("w", QUEUES))
    assert ledger.claim("w", QUEUES).shard == 0


def test_third_loss_sets_the_shard_aside_with_the_reason(ledger: Ledger):
    ledger.register(make_record(shards=2))
    replies = [ledger.lose(ledger.claim("w", QUEUES), f"fault {number}") for number in range(3)]
    assert replies == ["OK", "OK", "FAILED"]
    status = ledger.status("job-1")
    assert [(f.shard, f.attempts, f.reason) for f in status.failures] == [(0, 3, "fault 2")]
    assert (status.retries, status.shards_failed) == (2, 1)
    assert ledger.commit(ledger.claim("w", QUEUES), make_part(1)) is CommitReply.LAST


def test_lost_attempts_are_told_to_the_next_holder(ledger: Ledger):
    ledger.register(make_record(shards=1))
    assert ledger.claim("w", QUEUES).lost == 0
    ledger.lose(ledger.holdings("w")[0], "fault")
    assert ledger.claim("w", QUEUES).lost == 1


def test_resting_shard_is_in_one_place_and_comes_back(ledger: Ledger):
    ledger.register(make_record(shards=1))
    ledger.lose(ledger.claim("w", QUEUES), "fault", rest_s=0.02)
    assert ledger.claim("w", QUEUES) is None
    status = ledger.status("job-1")
    assert (status.shards_pending, status.shards_running) == (1, 0)
    assert ledger.reap("job-1").rested == 0
    time.sleep(0.03)
    assert ledger.reap("job-1").rested == 1
    assert ledger.claim("w", QUEUES).lost == 1


def test_reap_takes_expired_leases_only_and_names_the_last_worker(ledger: Ledger):
    ledger.register(make_record(shards=2))
    ledger.claim("alive", QUEUES)
    for attempt in range(3):
        claim_and_expire(ledger, f"dead-{attempt}")
        reaped = ledger.reap("job-1")
        assert (reaped.lost, reaped.failed) == (1, int(attempt == 2))
    status = ledger.status("job-1")
    assert status.shards_running == 1
    assert status.failures[0].attempts == 3
    assert "dead-2" in status.failures[0].reason


def test_after_a_lull_holders_may_renew_before_their_leases_are_taken(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=2))
    hasty = Ledger(client, ledger.env, INSTANT)
    alive, dead = hasty.claim("alive", QUEUES), hasty.claim("dead", QUEUES)
    ctl = keys.of_job("job-1", "ctl")
    ledger.reap("job-other")
    # the broker was away for a minute: no reconciler has looked
    client.hset(ctl, "looked", int((time.time() - 60) * 1000))
    time.sleep(0.01)
    assert [ledger.reap("job-1").lost for _ in range(2)] == [0, 0]
    assert ledger.beat(alive) == "OK"
    client.hset(ctl, "grace", int(time.time() * 1000))
    time.sleep(0.01)
    assert ledger.reap("job-1").lost == 1
    assert (ledger.beat(alive), ledger.beat(dead)) == ("OK", "LOST")


def test_holdings_are_the_leases_of_one_worker(ledger: Ledger):
    ledger.register(make_record(shards=3))
    mine = [ledger.claim("mine", QUEUES), ledger.claim("other", QUEUES), ledger.claim("mine", QUEUES)][::2]
    held = ledger.holdings("mine")
    assert [(claim.shard, claim.fence) for claim in held] == [(claim.shard, claim.fence) for claim in mine]
    assert [ledger.release(claim) for claim in held] == ["OK", "OK"]
    assert len(ledger.holdings("other")) == 1


def test_audit_mends_counter_and_puts_back_what_is_nowhere(ledger: Ledger, client, keys):
    ledger.register(make_record(shards=20))
    claims = [ledger.claim("w", QUEUES) for _ in range(5)]
    ledger.commit(claims[0], make_part(0))
    ledger.fail(claims[1], "bad")
    client.zrem(keys.of_job("job-1", "lease"), "3")
    client.delete(keys.of_job("job-1", "pend"))
    client.hset(keys.of_job("job-1", "ctl"), "done", 7)

    audit = ledger.audit("job-1")
    # 15 that waited, and shard 3, whose token without a lease nobody would have reaped
    assert (audit.done_off, audit.put_back) == (-6, 16)
    assert (ledger.audit("job-1").done_off, ledger.audit("job-1").put_back) == (0, 0)
    taken = {ledger.claim("w", QUEUES).shard for _ in range(16)}
    assert taken == {3, *range(5, 20)}
    assert ledger.claim("w", QUEUES) is None


def test_reopened_shard_is_run_again(ledger: Ledger):
    ledger.register(make_record(shards=1))
    ledger.commit(ledger.claim("w", QUEUES), make_part(0, error_rows=3))
    assert ledger.reopen("job-1", 0, rows=10)
    assert not ledger.reopen("job-1", 0, rows=10)
    status = ledger.status("job-1")
    assert (status.shards_done, status.rows_done, status.error_rows) == (0, 0, 0)
    assert list(ledger.digests.read("job-1", 1)) == [None]
    assert ledger.commit(ledger.claim("w", QUEUES), make_part(0)) is CommitReply.LAST


def test_census_lists_what_still_needs_somebody(ledger: Ledger):
    ledger.register(make_record("waits", shards=3))
    claim = ledger.claim("w", QUEUES)
    for job in ("cancelled", "done"):
        ledger.register(make_record(job, shards=3))
    ledger.set_state("cancelled", JobState.CANCELLED)
    ledger.set_state("done", JobState.DONE)
    census = {entry.job: (entry.state, entry.pending, entry.left) for entry in ledger.census()}
    assert claim.job == "waits"
    assert census == {"waits": ("running", 2, 3)}


def test_digest_tells_what_the_manifest_needs(ledger: Ledger):
    ledger.register(make_record(shards=5000, rows=1))
    part = make_part(4999, fence=77, error_rows=4)
    ledger.adopt("job-1", part)
    digests = list(ledger.digests.read("job-1", 5000))
    assert part.path == part_name(4999)
    assert (digests[4999].sha256, digests[4999].fence, digests[4999].error_rows) == (part.sha256, 77, 4)
    assert digests[:4999] == [None] * 4999


@pytest.mark.parametrize("reason", ["x" * 5000, "a:b:c", "é\n\u0000"])
def test_reason_is_kept_short_and_whole(ledger: Ledger, reason: str):
    ledger.register(make_record(shards=1))
    ledger.fail(ledger.claim("w", QUEUES), reason)
    assert ledger.status("job-1").failures[0].reason == reason[:500]


def take(items, gate: threading.Lock):
    with gate:
        return next(items, None)
