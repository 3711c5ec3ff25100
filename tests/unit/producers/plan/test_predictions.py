"""Predictions from earlier jobs by hand: which job tells, what its pace makes of other rows, what is kept of it."""

from __future__ import annotations

import os

import pytest

from parquetry.producers.plan.predictions import (
    MARGIN,
    OUTPUT_COST,
    Expected,
    apart,
    from_earlier,
    predict_from_earlier,
)
from parquetry.producers.plan.target import Target
from parquetry.schemas import recent_files
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.progress.status import DeviceUse, WorkerStatus
from parquetry.schemas.recent_files import RecentFiles
from parquetry.schemas.settings import load_settings
from parquetry.schemas.shard import InputFile, ShardPlan
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.earlier_jobs import EARLIER_JOBS, EarlierJob, engine_digest, known_paces, pace_of, settings_digest

CARD = "NVIDIA H100"
#: 1,000 rows: 100,000 prompt tokens and 50,000 output tokens in 100 s of a card
EARLIER = EarlierJob(
    job="old", engine="e", settings="s", device=CARD, ended=1.0, rows=1000, prompt_tokens=100_000,
    output_tokens=50_000, card_s=100.0, computed_prompt_tokens=100_000, computed_output_tokens=50_000,
)  # fmt: skip


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(recent_files, "settings", lambda: load_settings(state_dir=tmp_path / "state"))
    return tmp_path / "state"


def record(*, rows: int = 4000, template: str = "{{ text }}", quantization: str = "none", output: str = "/o"):
    spec = JobSpec.parse(
        {
            "task": "generate",
            "input": {"path": "/i"},
            "output": {"path": output},
            "model": {"id": "/m", "quantization": quantization},
            "prompt": {"template": template},
            "generation": {"max_new_tokens": 100},
        }
    )
    shards = ShardPlan(files=(InputFile(path="/i/a", num_rows=rows, size=1, etag="e"),), bounds=(0, rows))
    return JobRecord(job="new", created="2026-11-28T04:00:00Z", spec=spec, model_path="/m", shard_plan=shards)


def earlier(like: JobRecord, **changes) -> EarlierJob:
    found = {"engine": engine_digest(like), "settings": settings_digest(like), **changes}
    return EARLIER.model_copy(update=found)


def predicted(like: JobRecord, wanted: Expected, device: str | None = CARD):
    return predict_from_earlier(like, wanted, known_paces(), Target(device).is_device)


def test_twice_the_rows_take_twice_as_long():
    found = from_earlier(EARLIER, Expected(2000, None, 200_000), [EARLIER], gpus=4, price=3.6)
    assert found.output_tokens == (75_000, 100_000, 125_000)
    assert found.seconds == pytest.approx((37.5, 50.0, 62.5))
    assert found.gpu_hours == pytest.approx((150 / 3600, 200 / 3600, 250 / 3600))
    assert found.money == pytest.approx((0.15, 0.2, 0.25))
    assert "job old of the same settings (1,000 rows)" in found.source and CARD in found.source


def test_longer_prompts_cost_between_nothing_and_their_length():
    # three times the prompts, as many outputs
    found = from_earlier(EARLIER, Expected(1000, 300_000, 100_000), [EARLIER], gpus=1, price=None)
    likely = 100 * (300_000 + OUTPUT_COST * 50_000) / (100_000 + OUTPUT_COST * 50_000)
    assert found.seconds == pytest.approx((100 * (1 - MARGIN), likely, 300 * (1 + MARGIN)))
    assert found.money is None


def test_outputs_of_another_prompt_may_have_any_length():
    found = from_earlier(EARLIER, Expected(1000, 100_000, 60_000), [], gpus=1, price=None)
    assert found.output_tokens == (0, 50_000, 60_000)
    most = (100_000 + OUTPUT_COST * 60_000) / (100_000 + OUTPUT_COST * 50_000)
    least = 100_000 / (100_000 + OUTPUT_COST * 50_000)
    assert found.seconds == pytest.approx((100 * least * (1 - MARGIN), 100.0, 100 * most * (1 + MARGIN)))
    # shorter ones than the earlier job's where the job allows no more
    assert from_earlier(EARLIER, Expected(1000, 1, 9000), [], gpus=1, price=None).output_tokens[1] == 9000


def test_several_jobs_that_are_close_together_leave_less_open():
    near = [EARLIER.model_copy(update={"job": str(n), "card_s": 100.0 + n}) for n in range(8)]
    wanted = Expected(1000, 100_000, 60_000)
    alone, many = (from_earlier(EARLIER, wanted, same, gpus=1, price=None) for same in ([EARLIER], near))
    assert many.seconds[1] == alone.seconds[1]
    assert many.seconds[2] - many.seconds[0] < 0.5 * (alone.seconds[2] - alone.seconds[0])
    assert "and 7 more" in many.source and "more" not in alone.source
    far = [job.model_copy(update={"card_s": 100.0 * 2**n}) for n, job in enumerate(near[:3])]
    assert from_earlier(EARLIER, wanted, far, gpus=1, price=None).seconds[2] > alone.seconds[2]


def test_how_far_the_next_one_may_be():
    assert apart([]) == apart([7.0]) == pytest.approx(MARGIN)
    assert apart([1.0] * 30) < 0.1 < 0.3 < apart([1.0, 2.0, 4.0]) <= 0.9


def test_rows_that_generate_nothing_take_as_long_as_their_prompts():
    job = EARLIER.model_copy(update={"output_tokens": 0, "computed_output_tokens": 0})
    found = from_earlier(job, Expected(500, 25_000, 0), [job], gpus=1, price=None)
    assert found.seconds == pytest.approx((25 * 0.75, 25.0, 25 * 1.25)) and found.output_tokens == (0, 0, 0)


def test_the_job_of_the_same_settings_and_most_rows_tells():
    mine, other = record(), record(template="Say: {{ text }}")
    wanted = Expected(4000, 400_000, 400_000)
    assert predicted(mine, wanted) is None
    EARLIER_JOBS.put("other", earlier(other, job="other", rows=9000))
    assert "job other of the same model, with another prompt" in predicted(mine, wanted).source
    EARLIER_JOBS.put("small", earlier(mine, job="small", rows=10))
    EARLIER_JOBS.put("large", earlier(mine, job="large", rows=100))
    assert "job large" in predicted(mine, wanted).source


def test_another_model_quantization_or_card_tells_nothing():
    wanted = Expected(4000, 400_000, 400_000)
    EARLIER_JOBS.put("old", earlier(record(quantization="nf4")))
    assert predicted(record(), wanted) is None
    EARLIER_JOBS.put("old", earlier(record(output="/elsewhere", rows=5), device="NVIDIA A100"))
    assert predicted(record(), wanted) is None
    assert predicted(record(), wanted, "NVIDIA A100") is not None
    # two kinds of card on this machine, or a driver that is silent
    assert predicted(record(), wanted, None) is None


def test_prompts_that_nobody_looked_at_are_those_of_the_same_settings():
    EARLIER_JOBS.put("old", earlier(record(template="Say: {{ text }}")))
    assert predicted(record(), Expected(4000, None, 400_000)) is None


def worker(name: str, device: str = "cuda:0", card: str | None = CARD) -> WorkerStatus:
    use = DeviceUse(name=card) if card else None
    return WorkerStatus(
        worker=name, host="h", device=device, queue="default", shards_in_flight=2, seen=0.0, device_use=use
    )


FIRST = HistoryPoint(
    1000, rows=10, prompt_tokens=300, output_tokens=30, computed_prompt_tokens=500, computed_output_tokens=50,
    worker_ms=2000,
)  # fmt: skip
LAST = FIRST._replace(
    at_ms=61_000, rows=100, prompt_tokens=3500, output_tokens=350, computed_prompt_tokens=3500,
    computed_output_tokens=350, worker_ms=32_000,
)  # fmt: skip


def test_the_pace_is_what_was_computed_while_it_was_measured():
    found = pace_of(record(), [FIRST, LAST], [worker("a"), worker("b")])
    assert (found.rows, found.prompt_tokens, found.output_tokens) == (100, 3500, 350)
    assert (found.card_s, found.computed_prompt_tokens, found.computed_output_tokens) == (30.0, 3000, 300)
    assert (found.device, found.ended) == (CARD, 61.0)
    # of an engine on two cards both count
    assert pace_of(record(), [FIRST, LAST], [worker("a", "cuda:0,1")]).card_s == 60.0
    assert pace_of(record(), [FIRST, LAST], [worker("a", "cpu", None)]).device == "the CPU of h"


def test_no_pace_where_it_would_be_a_guess():
    short = LAST._replace(worker_ms=FIRST.worker_ms + 3999)
    for points, workers in (
        ([], [worker("a")]),
        ([FIRST, LAST], []),
        ([FIRST, short], [worker("a")]),
        ([FIRST, LAST], [worker("a"), worker("b", card="NVIDIA A100")]),
        ([FIRST, LAST], [worker("a"), worker("b", "cuda:1,2")]),
        ([FIRST, LAST], [worker("a", card=None)]),
    ):
        assert pace_of(record(), points, workers) is None


def test_a_few_facts_are_kept_and_damaged_ones_are_none(state, monkeypatch):
    monkeypatch.setattr(recent_files, "MAX_FILES", 3)
    facts = RecentFiles("facts", EarlierJob)
    assert facts.get("a") is None and list(facts.all()) == []
    for number, name in enumerate("abcd"):
        facts.put(name, EARLIER.model_copy(update={"job": name}))
        os.utime(state / "facts" / f"{name}.json", (number, number))
    facts.put("e", EARLIER)
    assert sorted(path.stem for path in (state / "facts").iterdir()) == ["c", "d", "e"]
    (state / "facts" / "c.json").write_text("{")
    assert facts.get("c") is None and sorted(job.job for job in facts.all()) == ["d", "old"]


def test_a_prediction_is_read_back_as_it_was_stored():
    found = Prediction.of_cards(5, (1, 2, 3), (1.0, 2.0, 3.0), gpus=2, price=7.2, source="x")
    assert found.seconds == (0.5, 1.0, 1.5) and found.money == pytest.approx((0.002, 0.004, 0.006))
    assert Prediction.model_validate_json(found.model_dump_json()) == found
