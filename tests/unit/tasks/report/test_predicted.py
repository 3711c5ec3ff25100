"""Predicted against actual, by hand."""

from __future__ import annotations

from parquetry.schemas.progress.prediction import Prediction, read_prediction
from parquetry.tasks.report.outcome import Outcome
from parquetry.tasks.report.predicted import predicted_lines

PREDICTION = Prediction.of_cards(1000, (900, 1000, 1100), (3600, 7200, 10_800), gpus=2, price=2.5, source="why")
OUTCOME = Outcome(
    job="j", state="done", created=0.0, ended=9.0, rows=1000, rows_done=1000, error_rows=0, shards=1, shards_done=1,
    shards_failed=0, output_tokens=1050, active_s=3900.0, worker_s=7800.0, gpu_s=9000.0, price_per_gpu_hour=3.0,
    prediction=PREDICTION,
)  # fmt: skip


def test_each_line_has_both():
    assert [tuple(line.values()) for line in predicted_lines(OUTCOME)] == [
        ("rows", "1,000", "1,000"),
        ("output tokens", "1,000, from 900 to 1,100", "1,050"),
        ("time on 2 devices, without loading", "1 h 00 min, from 30 min 00 s to 1 h 30 min", "1 h 05 min"),
        ("GPU hours", "2, from 1 to 3", "2.5, loading included"),
        ("money", "5.00, from 2.50 to 7.50", "7.50"),
        ("by", "why", None),
    ]


def test_what_is_not_over_or_not_known_has_no_actual():
    running = OUTCOME.model_copy(update={"state": "running"})
    assert {line["actual"] for line in predicted_lines(running)} == {None}
    bare = OUTCOME.model_copy(update={"output_tokens": None, "active_s": None, "gpu_s": None})
    assert [line["actual"] for line in predicted_lines(bare)] == ["1,000", *[None] * 5]
    assert predicted_lines(OUTCOME.model_copy(update={"prediction": None})) == []


def test_what_nobody_can_read_is_no_prediction():
    assert read_prediction("") is read_prediction("{") is read_prediction('{"rows": "many"}') is None
    assert read_prediction(PREDICTION.model_dump_json()) == PREDICTION
