"""What a page shows of a job besides its numbers: shards by state, what happened, who committed what; and drains."""

from __future__ import annotations

import pytest

from parquetry.schemas.errors import UnknownWorkerError
from parquetry.schemas.progress.states import JobState, ShardState
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.shard_map import MAX_CELLS
from tests.integration.records import make_part, make_record

QUEUES = ("default",)
JOB = make_record(shards=1).job


def registered(ledger: Ledger, shards: int) -> None:
    ledger.register(make_record(shards=shards))


def announce(ledger: Ledger, worker: str) -> bool:
    return ledger.roster.announce(worker, host="h", device="cpu", queues=QUEUES, shards_in_flight=2)


def test_every_shard_is_a_cell_of_its_state(ledger: Ledger):
    registered(ledger, 20)
    first, second, third = (ledger.claim("w", QUEUES) for _ in range(3))
    ledger.commit(first, make_part(first.shard, fence=first.fence))
    ledger.fail(second, "it is cursed")
    cells = ledger.shards.cells(JOB, 0, 20)
    assert cells.step == 1
    assert cells.done == [1] + [0] * 19
    assert cells.failed == [0, 1] + [0] * 18
    assert cells.running == [0, 0, 1] + [0] * 17
    within = ledger.shards.cells(JOB, 1, 3)
    assert (within.done, within.failed, within.running) == ([0, 0, 0], [1, 0, 0], [0, 1, 0])
    assert third.shard == 2


def test_a_million_shards_are_a_few_thousand_cells(ledger: Ledger, client, keys):
    registered(ledger, 4)
    client.setrange(keys.of_job(JOB, "done"), 0, b"\xff" * 62_500)
    client.setbit(keys.of_job(JOB, "done"), 999_999, 1)
    cells = ledger.shards.cells(JOB, 0, 1_000_000)
    assert len(cells.done) <= MAX_CELLS
    assert len(cells.done) == len(cells.running) == len(cells.failed)
    assert sum(cells.done) == 500_001
    assert cells.done[0] == cells.step and cells.done[-1] == 1


def test_one_shard_from_pending_to_its_end(ledger: Ledger):
    registered(ledger, 3)
    assert ledger.shards.shard(JOB, 0).state is ShardState.PENDING
    claim = ledger.claim("w1", QUEUES)
    leased = ledger.shards.shard(JOB, 0)
    assert (leased.state, leased.worker, leased.fence) == (ShardState.LEASED, "w1", claim.fence)
    assert leased.lease_ends is not None
    ledger.lose(claim, "its engine died")
    again = ledger.claim("w2", QUEUES)
    assert ledger.shards.shard(JOB, again.shard).lost == 1
    ledger.commit(again, make_part(again.shard, fence=again.fence))
    done = ledger.shards.shard(JOB, again.shard)
    assert (done.state, done.worker, done.fence) == (ShardState.COMMITTED, "w2", again.fence)
    cursed = ledger.claim("w2", QUEUES)
    ledger.fail(cursed, "no row explains it: really")
    failed = ledger.shards.shard(JOB, cursed.shard)
    assert (failed.state, failed.reason) == (ShardState.FAILED, "no row explains it: really")


def test_events_tell_what_happened_in_order(ledger: Ledger):
    registered(ledger, 2)
    claim = ledger.claim("w", QUEUES)
    ledger.lose(claim, "two words")
    ledger.set_state(JOB, JobState.PAUSED)
    ledger.set_state(JOB, JobState.RUNNING)
    ledger.fail(ledger.claim("w", QUEUES), "cursed")
    ledger.retry(JOB)
    events = ledger.shards.events(JOB)
    kinds = [event.kind for event in events]
    assert kinds == ["registered", "lost", "paused", "running", "failed-shard", "retried"]
    assert (events[1].shard, events[1].text) == (0, "two words")
    assert events[0].shard is None
    assert [event.at_ms for event in events] == sorted(event.at_ms for event in events)


def test_what_cannot_be_noted_keeps_no_part_from_being_counted(ledger: Ledger, client, keys):
    registered(ledger, 1)
    for name in ("evts", "ends"):
        client.delete(keys.of_job(JOB, name))
        client.set(keys.of_job(JOB, name), "damaged")
    claim = ledger.claim("w", QUEUES)
    assert ledger.commit(claim, make_part(0, fence=claim.fence)) == "LAST"
    assert ledger.set_state(JOB, JobState.DONE) is JobState.RUNNING


def test_events_are_bounded(ledger: Ledger):
    registered(ledger, 1)
    for _ in range(300):
        ledger.set_state(JOB, JobState.PAUSED)
        ledger.set_state(JOB, JobState.RUNNING)
    assert len(ledger.shards.events(JOB)) == 200


def test_the_index_follows_every_job(ledger: Ledger, client, keys):
    registered(ledger, 1)
    assert [(line.job, line.state) for line in ledger.index.lines()] == [(JOB, JobState.RUNNING)]
    ledger.set_state(JOB, JobState.CANCELLED)
    ledger.census()
    for _ in range(2):
        assert ledger.index.lines()[0].state is JobState.CANCELLED
    ledger.set_state(JOB, JobState.RUNNING)
    assert ledger.index.lines()[0].state is JobState.RUNNING
    assert "default" in ledger.index.lines()[0].text
    ledger.remove(JOB)
    assert ledger.index.lines() == []


def test_a_damaged_record_is_in_the_index_as_failed(ledger: Ledger, client, keys):
    registered(ledger, 1)
    client.delete(keys.of_job(JOB, "ctl"))
    client.set(keys.of_job(JOB, "ctl"), "damaged")
    assert ledger.index.lines()[0].state is JobState.FAILED


def test_a_drained_worker_is_given_no_shard_until_it_goes_on(ledger: Ledger):
    registered(ledger, 3)
    assert announce(ledger, "w") is False
    assert ledger.claim("w", QUEUES) is not None
    ledger.roster.drain("w")
    assert announce(ledger, "w") is True
    assert ledger.workers()[0].drained
    assert ledger.roster.shards_in_flight("default") == 0
    assert ledger.claim("w", QUEUES) is None
    assert ledger.claim("other", QUEUES) is not None
    ledger.roster.drain("w", wanted=False)
    assert announce(ledger, "w") is False
    assert ledger.claim("w", QUEUES) is not None


def test_a_worker_that_is_gone_cannot_be_drained(ledger: Ledger, client, keys):
    with pytest.raises(UnknownWorkerError, match="no worker gone"):
        ledger.roster.drain("gone")
    assert not client.exists(keys.worker("gone"))
