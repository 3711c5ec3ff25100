"""Which job a claim serves: priority, then the model that is loaded, then fair share; and nobody waits for ever."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.claim import Claim, ReleaseReply
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


def announce(ledger: Ledger, worker: str, **told: object) -> None:
    fields = {"host": "h", "device": "cpu", "queues": QUEUES, "shards_in_flight": 2}
    ledger.roster.announce(worker, **{**fields, **told})


PLAIN, RICH = ("torch", "transformers", "accelerate"), ("torch", "transformers", "accelerate", "bitsandbytes")


def test_a_job_is_left_to_a_worker_that_has_what_it_needs(ledger: Ledger):
    announce(ledger, "plain", offers=PLAIN)
    announce(ledger, "rich", offers=RICH)
    ledger.register(make_record("nf4", quantization="nf4"))
    ledger.register(make_record("any", priority=9))
    assert ledger.claim("plain", QUEUES).job == "any"
    assert ledger.claim("rich", QUEUES).job == "nf4"


def test_what_one_kind_of_worker_declines_another_is_given(ledger: Ledger):
    for name, kind in (("small-1", "24 GiB"), ("small-2", "24 GiB"), ("large", "80 GiB")):
        announce(ledger, name, kind=kind)
    ledger.register(make_record("job"))
    claim = ledger.claim("small-1", QUEUES)
    assert ledger.stop(claim, "too large for 24 GiB", of_worker=True) is ReleaseReply.OK
    assert ledger.claim("small-2", QUEUES) is None
    status = ledger.status("job")
    assert (status.state, status.retries, status.shards_pending) == (JobState.RUNNING, 0, status.shards)
    assert status.declined == {"24 GiB": "too large for 24 GiB"}
    claim = ledger.claim("large", QUEUES)
    assert claim.job == "job"

    # nobody is left who may be able
    assert ledger.stop(claim, "too large for 80 GiB", of_worker=True) is ReleaseReply.FAILED
    status = ledger.status("job")
    assert (status.state, status.failures[0].reason) == (JobState.FAILED, "too large for 80 GiB")
    assert ledger.retry("job") == 1
    assert ledger.status("job").declined == {}
    assert ledger.claim("small-2", QUEUES).job == "job"


@pytest.mark.parametrize("other", [{"queues": ("other",)}, {"offers": ()}, {"kind": "24 GiB"}, {"drained": True}])
def test_a_job_that_no_living_worker_can_run_ends_at_once(ledger: Ledger, other: dict):
    announce(ledger, "small", kind="24 GiB", offers=PLAIN)
    is_drained = other.pop("drained", False)
    announce(ledger, "other", **other)
    ledger.roster.drain("other", wanted=is_drained)
    ledger.register(make_record("job"))
    assert ledger.stop(ledger.claim("small", QUEUES), "too large", of_worker=True) is ReleaseReply.FAILED
    assert ledger.status("job").state is JobState.FAILED


def test_a_record_of_a_newer_version_is_left_to_newer_workers(ledger: Ledger, monkeypatch):
    ledger.register(make_record("newer").model_copy(update={"version": 3}))
    ledger.register(make_record("ours", shards=1, priority=9))
    assert ledger.claim("w", QUEUES).job == "ours"
    assert ledger.claim("w", QUEUES) is None
    monkeypatch.setattr(type(ledger), "reads", 3)
    assert ledger.claim("w", QUEUES).job == "newer"
