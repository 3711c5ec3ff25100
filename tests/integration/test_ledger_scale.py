"""A million shards: bounds in bytes and commands, not in seconds of a busy machine."""

from __future__ import annotations

import pytest

from parquetry.schemas.shard import ShardPlan
from parquetry.tasks.ledger.ledger import Ledger
from tests.integration.records import make_part, make_record

MILLION = 1_000_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def plan() -> ShardPlan:
    return make_record(shards=MILLION, rows=1).shard_plan


def used(client) -> int:
    return client.info("memory")["used_memory"]


def pushes(client) -> int:
    return client.info("commandstats").get("cmdstat_rpush", {"calls": 0})["calls"]


def test_a_million_shards_load_in_one_command_and_a_few_bytes(ledger: Ledger, client, plan):
    before, calls = used(client), pushes(client)
    ledger.register(make_record().model_copy(update={"shard_plan": plan}))
    assert used(client) - before < MIB
    # all pending shards at once, and the event that it was registered
    assert pushes(client) - calls == 2
    assert ledger.status("job-1").shards_pending == MILLION


def test_memory_stays_below_64_mib_when_all_are_committed(ledger: Ledger, client, plan):
    """The far end of a job: everything counted, digests kept for the manifest."""
    ledger.register(make_record().model_copy(update={"shard_plan": plan}))
    before = used(client)
    for shard in range(0, MILLION, 4096):
        ledger.adopt("job-1", make_part(min(shard + 4095, MILLION - 1)))
    assert used(client) - before < 60 * MIB


def test_worst_case_of_recovery_is_every_other_shard(ledger: Ledger, client):
    record = make_record(shards=100_000, rows=1)
    done = [make_part(shard, rows=1) for shard in range(0, 100_000, 2)]
    before = used(client)
    ledger.register(record, done=done)
    assert used(client) - before < 8 * MIB
    assert ledger.status("job-1").shards_pending == 50_000
    assert [ledger.claim("w", ("default",)).shard for _ in range(3)] == [1, 3, 5]
    assert ledger.audit("job-1").put_back == 0


def test_claim_looks_only_at_the_best_priority(ledger: Ledger, client):
    for number in range(50):
        ledger.register(make_record(f"low-{number}", priority=9))
    ledger.register(make_record("high", priority=0))
    before = total_calls(client)
    assert ledger.claim("w", ("default",)).job == "high"
    assert total_calls(client) - before < 30


def total_calls(client) -> int:
    return sum(stat["calls"] for stat in client.info("commandstats").values())
