"""What was predicted of a job stays with it: in the queue, its output and its report, and if the queue is lost."""

from __future__ import annotations

import pytest

from parquetry.monitor.job_details import JobDetails
from parquetry.producers.plan.predictions import PLANNED, store_prediction
from parquetry.schemas import recent_files
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import REPORT_FILE, JobRecord
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import load_settings
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks.earlier_jobs import EARLIER_JOBS, known_paces
from parquetry.tasks.finalize import finalize
from parquetry.tasks.kept_history import read_history
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.recovery import recover
from tests.page.world import World


@pytest.fixture
def world(client, ledger: Ledger, tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(recent_files, "settings", lambda: load_settings(state_dir=tmp_path / "state"))
    return World(client, ledger, tmp_path)


def end(world: World, record: JobRecord) -> None:
    """Two shards of 20 rows, computed by one card in 20 s."""
    world.commit(record, "w", 2)
    for shard in range(2):
        world.write_part(record, shard)
    total = {"rows": 40, "prompt_tokens": 4000, "output_tokens": 800}
    computed = {"computed_prompt_tokens": 4000, "computed_output_tokens": 800, "active_ms": 20_000, "worker_ms": 20_000}
    points = [HistoryPoint(1000), HistoryPoint(31_000, **total, **computed, gpu_ms=36_000)]
    world.client.delete(*(world.keys.of_job(record.job, name) for name in ("past", "late")))
    world.ledger.histories.restore(record.job, points)
    assert finalize(world.ledger, record.job) is JobState.DONE


def test_a_job_is_predicted_from_an_earlier_one_and_keeps_that(world, ledger, tmp_path):
    world.worker("w")
    first = world.submit("first", shards=2, rows=20)
    store_prediction(ledger, first)
    assert ledger.status(first.job).prediction is None
    end(world, first)
    kept = EARLIER_JOBS.get(first.job)
    # whoever submits from another machine has it too
    assert known_paces(ledger) == [kept]
    (tmp_path / "state" / "earlier-jobs" / f"{first.job}.json").unlink()
    assert known_paces() == [] and known_paces(ledger) == [kept]
    assert (kept.card_s, kept.device, kept.rows) == (20.0, "NVIDIA H100 80GB HBM3", 40)

    budget = {"gpu_hours": 1, "price_per_gpu_hour": 3.6}
    second = world.submit("second", shards=2, rows=40, budget=budget)
    store_prediction(ledger, second)
    found = ledger.status(second.job).prediction
    # twice the rows
    assert (found.rows, found.output_tokens[1], found.gpus) == (80, 1600, 1)
    assert found.seconds[1] == pytest.approx(40.0) and found.money[1] == pytest.approx(0.04)
    assert {line["actual"] for line in JobDetails(ledger).about(second.job)["prediction"]} == {None}

    end(world, second)
    lines = {line["what"]: line for line in JobDetails(ledger).about(second.job)["prediction"]}
    assert lines["time on 1 device, without loading"]["actual"] == "20 s"
    assert lines["GPU hours"]["actual"] == "0.01, loading included"
    storage = open_storage(Location.parse(second.spec.output.path))
    assert "Predicted against actual" in storage.read(REPORT_FILE).decode()
    assert read_history(storage, second.job).prediction == found

    ledger.remove(second.job)
    recover(second.spec.output.path, ledger)
    assert ledger.status(second.job).prediction == found


def test_what_its_plan_has_said_comes_first(world, ledger):
    record = world.submit("job", shards=2, rows=20)
    planned = Prediction.of_cards(40, (1, 2, 3), (4.0, 5.0, 6.0), gpus=2, price=None, source="measured here")
    PLANNED.put(record.job, planned)
    store_prediction(ledger, record)
    assert ledger.status(record.job).prediction == planned
    world.client.hset(world.keys.of_job(record.job, "ctl"), "prediction", "{damaged")
    status = ledger.status(record.job)
    assert status.prediction is None and status.damage is None


def test_paces_of_other_versions_are_passed_over_and_old_ones_forgotten(world, ledger, monkeypatch):
    monkeypatch.setattr("parquetry.tasks.ledger.paces.MAX_PACES", 2)
    for number in range(4):
        ledger.paces.keep(f"{{{number}", float(number))
    assert ledger.paces.all() == ["{2", "{3"]
    assert known_paces(ledger) == []
