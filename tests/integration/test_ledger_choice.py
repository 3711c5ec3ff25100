"""Which job a claim serves: priority, then the model that is loaded, then fair share; and nobody waits for ever."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from tests.integration.records import make_part, make_record

QUEUES = ("default",)


def finish(ledger: Ledger, claim: Claim) -> None:
    ledger.commit(claim, make_part(claim.shard))


def jobs_claimed(ledger: Ledger, worker: str, count: int) -> list[str]:
    """What one worker with one shard at a time is given, shard after shard."""
    jobs = []
    for _ in range(count):
        claim = ledger.claim(worker, QUEUES)
        jobs.append(claim.job)
        finish(ledger, claim)
    return jobs


def test_priority_zero_goes_first_and_the_rest_waits(ledger: Ledger):
    for job, priority in (("late", 9), ("first", 0), ("normal", 5)):
        ledger.register(make_record(job, shards=2, priority=priority))
    assert [ledger.claim("w", QUEUES).job for _ in range(6)] == ["first"] * 2 + ["normal"] * 2 + ["late"] * 2


def test_urgent_job_is_next_whatever_runs(ledger: Ledger):
    ledger.register(make_record("long", shards=9, model="a"))
    assert ledger.claim("w", QUEUES).job == "long"
    ledger.register(make_record("urgent", priority=1, model="b"))
    assert ledger.claim("w", QUEUES).job == "urgent"


def test_priority_with_nothing_to_claim_does_not_hold_up_others(ledger: Ledger):
    ledger.register(make_record("first", shards=1, priority=0))
    ledger.register(make_record("second", shards=1))
    assert ledger.claim("w", QUEUES).job == "first"
    assert ledger.claim("w", QUEUES).job == "second"


def test_only_the_queues_asked_for(ledger: Ledger):
    ledger.register(make_record("big"), queue="big")
    ledger.register(make_record("small"), queue="small")
    assert ledger.claim("w", ("other",)) is None
    assert ledger.claim("w", ("small",)).job == "small"
    assert ledger.claim("w", ("big", "small")).job in ("big", "small")


@pytest.mark.parametrize("num_jobs", [2, 3, 4, 7])
def test_equal_jobs_share_200_workers_within_five_percent(ledger: Ledger, num_jobs: int):
    for number in range(num_jobs):
        ledger.register(make_record(f"job-{number}", shards=1000))
    claims = [ledger.claim(f"w{worker}", QUEUES) for worker in range(200)]
    for round_number in range(300):
        worker = round_number * 7 % 200
        finish(ledger, claims[worker])
        claims[worker] = ledger.claim(f"w{worker}", QUEUES)
        share = Counter(claim.job for claim in claims)
        assert max(share.values()) - min(share.values()) <= max(1, 0.05 * 200 / num_jobs)


def test_late_job_reaches_its_share_even_against_another_model(ledger: Ledger):
    ledger.register(make_record("early", shards=1000, model="a"))
    claims = [ledger.claim(f"w{worker}", QUEUES) for worker in range(100)]
    ledger.register(make_record("late", shards=1000, model="b"))
    for worker in range(100):
        finish(ledger, claims[worker])
        claims[worker] = ledger.claim(f"w{worker}", QUEUES)
    share = Counter(claim.job for claim in claims)
    assert share["late"] == pytest.approx(50, abs=2)


def test_shares_once_even_cost_no_further_loads(ledger: Ledger):
    for model in "ab":
        ledger.register(make_record(f"job-{model}", shards=1000, model=model))
    claims = [ledger.claim(f"w{worker}", QUEUES) for worker in range(20)]
    switches = 0
    for round_number in range(200):
        worker = round_number * 7 % 20
        finish(ledger, claims[worker])
        before, claims[worker] = claims[worker], ledger.claim(f"w{worker}", QUEUES)
        switches += before.job != claims[worker].job
    assert switches == 0


def test_one_worker_keeps_its_model(ledger: Ledger):
    for job in ("x", "y"):
        ledger.register(make_record(job, shards=20, model=job))
    jobs = jobs_claimed(ledger, "w", 20)
    assert len(set(jobs)) == 1


def test_the_loaded_weights_go_before_another_model(ledger: Ledger):
    ledger.register(make_record("first", shards=1, model="a"))
    assert jobs_claimed(ledger, "w", 1) == ["first"]
    ledger.register(make_record("other", shards=4, model="b"))
    ledger.register(make_record("same", shards=4, model="a", embed={"text": "text", "pooling": "cls"}))
    assert jobs_claimed(ledger, "w", 4) == ["same"] * 4


def test_the_loaded_engine_goes_before_its_weights(ledger: Ledger):
    ledger.register(make_record("first", shards=1, model="a"))
    assert jobs_claimed(ledger, "w", 1) == ["first"]
    ledger.register(make_record("weights", shards=4, model="a", embed={"text": "text", "pooling": "cls"}))
    ledger.register(make_record("engine", shards=4, model="a"))
    assert jobs_claimed(ledger, "w", 8) == ["engine"] * 4 + ["weights"] * 4


def test_waiting_job_gets_the_first_shard_after_its_bound(client, env: str):
    bound_s = 0.05
    ledger = Ledger(client, env, Policy(lease_s=60, max_attempts=3, starvation_s=bound_s))
    for job in ("x", "y"):
        ledger.register(make_record(job, shards=500, model=job))
    kept = jobs_claimed(ledger, "w", 1)[0]
    waiting = {"x": "y", "y": "x"}[kept]
    served = []
    for _ in range(8):
        served += jobs_claimed(ledger, "w", 1)
        time.sleep(0.02)
    assert waiting in served[:5]
    # and from then on they take turns, a bound's time each
    assert kept in served[served.index(waiting) :]


def test_the_longest_wait_is_ended_first(client, env: str):
    ledger = Ledger(client, env, Policy(lease_s=60, max_attempts=3, starvation_s=0.01))
    for job in ("a", "b", "c"):
        ledger.register(make_record(job, shards=10, model=job))
        time.sleep(0.005)
    time.sleep(0.01)
    assert jobs_claimed(ledger, "w", 3) == ["a", "b", "c"]
