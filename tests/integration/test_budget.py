"""Budgets: what is counted, when a job pauses itself, and how it goes on."""

from __future__ import annotations

import pytest

from parquetry.monitor.progress.job_phase import job_phase
from parquetry.schemas.errors import BudgetSpentError, InvalidValueError, UnknownKeyError
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.spec.budget import BudgetSpec
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.budget_change import change_budget, raise_budget
from parquetry.tasks.ledger.claim import LeaseProgress
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.recovery import recover
from tests.integration.jobs_on_disk import make_job
from tests.integration.records import make_part, make_record

QUEUES = ("default",)
COMPUTING = LeaseProgress(is_computing=True)


def pass_time(client, keys, job: str, seconds: float) -> None:
    """As if the last point had been taken so long ago."""
    client.hincrby(keys.of_job(job, "ctl"), "pointed", round(-1000 * seconds))


def announce(ledger: Ledger, worker: str, device: str) -> None:
    ledger.roster.announce(worker, host="h", device=device, queues=QUEUES, shards_in_flight=2)


def begin(ledger: Ledger, device: str = "cuda:0", **spec):
    ledger.register(make_record(shards=3, **spec))
    announce(ledger, "w", device)
    claim = ledger.claim("w", QUEUES)
    assert ledger.beat(claim) == "OK"
    return claim


@pytest.mark.parametrize(("device", "cards"), [("cuda:0", 1), ("cuda:0,1,3", 3), ("cpu", 1)])
def test_time_of_cards_counts_loading_and_every_card(device, cards, ledger, client, keys):
    claim = begin(ledger, device)
    pass_time(client, keys, "job-1", 10)
    assert ledger.beat(claim) == "OK"
    status = ledger.status("job-1")
    assert status.gpu_seconds == pytest.approx(10 * cards, abs=2 * cards)
    assert status.worker_seconds == 0
    assert ledger.history("job-1")[-1].gpu_ms >= 10_000 * cards


def test_a_job_pauses_itself_when_its_budget_is_spent(ledger, client, keys):
    claim = begin(ledger, budget={"gpu_hours": 20 / 3600}, notify=["https://hooks.example/x"])
    pass_time(client, keys, "job-1", 15)
    assert ledger.beat(claim, COMPUTING) == "OK"
    assert ledger.status("job-1").state is JobState.RUNNING
    pass_time(client, keys, "job-1", 10)
    assert ledger.beat(claim, COMPUTING) == "PAUSE"
    status = ledger.status("job-1")
    assert (status.state, status.why) == (JobState.PAUSED, "budget")
    assert "its budget of 0.00556 GPU hours is spent" in job_phase(status, []).text
    assert ledger.claim("w", QUEUES) is None
    assert ledger.release(claim) == "OK"
    # nothing more is spent meanwhile
    pass_time(client, keys, "job-1", 20)
    assert ledger.status("job-1").gpu_seconds == pytest.approx(25, abs=2)
    notice = ledger.outbox.take()
    assert (notice.job, notice.event) == ("job-1", "paused")


def test_what_is_written_already_is_published_all_the_same(ledger, client, keys):
    claim = begin(ledger, budget={"gpu_hours": 20 / 3600})
    pass_time(client, keys, "job-1", 25)
    assert ledger.beat(claim, COMPUTING) == "PAUSE"
    assert ledger.prepare(claim) == "OK"
    assert ledger.commit(claim, make_part(claim.shard)) == "COMMITTED"


def test_a_spent_job_goes_on_with_a_larger_budget_alone(ledger, client, keys):
    claim = begin(ledger, budget={"money": 1, "price_per_gpu_hour": 180})
    pass_time(client, keys, "job-1", 25)
    ledger.beat(claim, COMPUTING)
    ledger.release(claim)
    with pytest.raises(
        BudgetSpentError, match=r"budget of 1\.00 at 180\.00 a GPU hour; raise it: .*budget\.money=2\.\d"
    ):
        ledger.set_state("job-1", JobState.RUNNING)
    assert ledger.status("job-1").state is JobState.PAUSED
    raise_budget(ledger, "job-1", BudgetSpec(money=0.5, price_per_gpu_hour=180.0))
    assert ledger.status("job-1").budget_gpu_seconds == 20
    raise_budget(ledger, "job-1", BudgetSpec(money=3.0, price_per_gpu_hour=180.0))
    ledger.set_state("job-1", JobState.RUNNING)
    status = ledger.status("job-1")
    assert (status.why, status.budget_gpu_seconds) == ("", 60)
    assert ledger.claim("w", QUEUES) is not None


def test_the_last_shard_ends_a_job_though_its_budget_is_spent(ledger, client, keys):
    ledger.register(make_record(shards=1, budget={"gpu_hours": 20 / 3600}))
    announce(ledger, "w", "cpu")
    claim = ledger.claim("w", QUEUES)
    ledger.beat(claim)
    pass_time(client, keys, "job-1", 25)
    assert ledger.commit(claim, make_part(0)) == "LAST"
    assert ledger.status("job-1").state is JobState.RUNNING


def test_what_was_spent_outlives_the_queue(ledger, client, keys):
    claim = begin(ledger, budget={"gpu_hours": 20 / 3600})
    pass_time(client, keys, "job-1", 25)
    ledger.beat(claim, COMPUTING)
    history, spent = ledger.history("job-1"), ledger.status("job-1").gpu_seconds
    ledger.remove("job-1")
    ledger.register(make_record(shards=3, budget={"gpu_hours": 20 / 3600}), history=history)
    status = ledger.status("job-1")
    assert status.gpu_seconds == pytest.approx(spent, abs=0.1)
    with pytest.raises(BudgetSpentError):
        ledger.require_budget(status)


def test_a_budget_makes_no_other_job():
    assert make_record().spec.fingerprint == make_record(budget={"gpu_hours": 1}).spec.fingerprint
    assert make_record().digest == make_record(budget={"gpu_hours": 1}).digest


@pytest.mark.parametrize(
    ("budget", "error", "said"),
    [
        ({}, InvalidValueError, "give gpu_hours, or money"),
        ({"money": 5}, InvalidValueError, "price_per_gpu_hour"),
        ({"gpu_hours": 0}, InvalidValueError, r"budget\.gpu_hours"),
        ({"gpu_hour": 1}, UnknownKeyError, "did you mean 'gpu_hours'"),
    ],
)
def test_a_budget_that_bounds_nothing_is_refused(budget, error, said):
    spec = {"task": "embed", "input": {"path": "i"}, "output": {"path": "o"}, "model": {"id": "m"}, "budget": budget}
    with pytest.raises(error, match=said):
        JobSpec.parse(spec)


@pytest.mark.parametrize("raised", [BudgetSpec(money=7, price_per_gpu_hour=180.0), None])
def test_a_changed_budget_outlives_the_queue(raised, ledger, client, keys, tmp_path):
    job = make_job(tmp_path, ledger, budget={"money": 1, "price_per_gpu_hour": 180})
    announce(ledger, "w", "cpu")
    ledger.beat(ledger.claim("w", QUEUES), COMPUTING)
    change_budget(ledger, job.name, raised)
    ledger.remove(job.name)
    recover(str(tmp_path / "out"), ledger)
    status = ledger.status(job.name)
    assert status.budget_gpu_seconds == (None if raised is None else pytest.approx(140))
    assert status.price_per_gpu_hour == (None if raised is None else 180.0)


def test_a_budget_that_nobody_changed_is_that_of_the_spec(ledger, tmp_path):
    job = make_job(tmp_path, ledger, budget={"gpu_hours": 2})
    ledger.remove(job.name)
    recover(str(tmp_path / "out"), ledger)
    assert ledger.status(job.name).budget_gpu_seconds == 7200
