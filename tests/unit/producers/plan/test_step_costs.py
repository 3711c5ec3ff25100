"""Costs of steps by hand: from counts that are exact they come out as they went in."""

from __future__ import annotations

import pytest

from parquetry.producers.plan.duration import BESIDE_STEPS, MeasuredRows, Whole, predict
from parquetry.producers.plan.step_costs import StepCosts, num_steps
from parquetry.schemas.progress.history import HistoryPoint

#: 16 rows in 8 lanes, each with a prompt of 100 tokens and an output of 40: 1 ms a prompt token, 50 ms a step
POINTS = [
    HistoryPoint(1000, active_ms=0),
    *(
        HistoryPoint(
            1000 + ms,
            rows=rows,
            prompt_tokens=100 * rows,
            output_tokens=40 * rows,
            computed_prompt_tokens=prompt,
            computed_output_tokens=output,
            active_ms=ms,
            requests_running=8,
            requests_waiting=waiting,
        )
        for ms, rows, prompt, output, waiting in (
            (2800, 0, 800, 0, 8),
            (3800, 0, 800, 160, 8),
            (4800, 8, 800, 320, 8),
            (5600, 8, 1600, 320, 0),
            (6600, 8, 1600, 480, 0),
            (7600, 16, 1600, 640, 0),
        )
    ),
]


def test_costs_come_out_as_they_went_in():
    found = StepCosts.fit(POINTS, 16, 8)
    assert found.start == pytest.approx(2.0, abs=0.3)
    assert found.prompt_token == pytest.approx(0.001, rel=0.2)
    assert found.step + 8 * found.output_token == pytest.approx(0.05, rel=0.2)


def test_a_larger_job_fills_its_lanes():
    measured = MeasuredRows(16, 7.6, [40] * 16, POINTS)
    found = predict(measured, Whole(160, 16_000, 80))
    # 2 s before the first token, 16 s of prompts, 800 steps of 50 ms
    assert found.seconds[1] == pytest.approx(58 * BESIDE_STEPS, rel=0.1)
    assert found.seconds[0] < 58 < found.seconds[2]
    assert "what prompts and steps cost" in found.source


def test_too_short_a_history_tells_no_costs():
    assert StepCosts.fit(POINTS[:3], 16, 8) is None
    measured = MeasuredRows(16, 3.0, [40] * 16, POINTS[:3])
    assert predict(measured, Whole(32)).seconds[1] == pytest.approx(6.0)


def test_time_before_the_first_token_is_not_taken_times_the_rows():
    points = [HistoryPoint(0, active_ms=2000), HistoryPoint(1, active_ms=3000, computed_prompt_tokens=5)]
    assert predict(MeasuredRows(10, 3.0, [4] * 10, points), Whole(100)).seconds[1] == pytest.approx(12.0)


def test_rows_at_once_are_bounded_by_lanes_by_the_cache_and_by_shards():
    full = MeasuredRows(64, 9.0, [4], [HistoryPoint(0, requests_running=16, requests_waiting=48, kv_use=900)])
    assert full.rows_at_once(1000, 500) == 16
    roomy = MeasuredRows(64, 9.0, [4], [HistoryPoint(0, requests_running=64, kv_use=250)])
    assert roomy.rows_at_once(1000, 500) == 256
    assert roomy.rows_at_once(1000, 50) == 100
    assert MeasuredRows(64, 9.0, [4]).rows_at_once(10, 500) == 10


def test_steps_until_the_last_row_is_through():
    assert num_steps([10], 8, 4, 8) == 20
    assert num_steps([10, 1, 1, 1], 4, 4, 4) == 10
    assert num_steps([], 8, 4, 8) == 0
    assert num_steps([10], 200_000, 100, 1000) == pytest.approx(20_000)


def test_the_long_rows_of_two_shards_keep_a_third_waiting():
    assert num_steps([10, 1], 4, 8, 2) == 10
    assert num_steps([10, 1], 6, 8, 2) == 20
    assert num_steps([10, 1], 6, 8, 6) == 10
