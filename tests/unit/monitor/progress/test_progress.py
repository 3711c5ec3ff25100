from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parquetry.monitor.progress.job_progress import JobProgress
from parquetry.monitor.progress.pace import RATIOS, cost_ratio
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import JobState
from tests.unit.monitor.made_statuses import job_status

#: a job of 1000 rows of 100 prompt and 50 output tokens, which one worker computes
ROWS, PROMPT, OUTPUT = 1000, 100, 50


def point(seconds: float, rows: float, *, active: float | None = None, workers: int = 1) -> HistoryPoint:
    active = seconds if active is None else active
    tokens = {"prompt_tokens": round(PROMPT * rows), "output_tokens": round(OUTPUT * rows)}
    return HistoryPoint(
        at_ms=round(1000 * (1000 + seconds)),
        rows=int(rows),
        computed_prompt_tokens=tokens["prompt_tokens"],
        computed_output_tokens=tokens["output_tokens"],
        workers=workers,
        shards_running=2,
        active_ms=round(1000 * active),
        worker_ms=round(1000 * active * workers),
        **tokens,
    )


def status_at(at: HistoryPoint, **changes):
    tokens = at._asdict()
    names = ("prompt_tokens", "output_tokens", "computed_prompt_tokens", "computed_output_tokens")
    return job_status(
        **{
            "now": at.at_ms / 1000,
            "rows_done": at.rows,
            "active_seconds": at.active_ms / 1000,
            "worker_seconds": at.worker_ms / 1000,
            "shards_computing": 2,
            "workers": {f"w{number}": 1 for number in range(at.workers)},
            **{name: tokens[name] for name in names},
            **changes,
        }
    )


def progress_of(*points, **changes) -> JobProgress:
    return JobProgress.of(status_at(points[-1], **changes), points)


def test_nothing_is_known_before_anything_is_computed():
    fresh = job_status(rows_done=0, prompt_tokens=0, output_tokens=0)
    progress = JobProgress.of(fresh)
    assert (progress.rows_per_s, progress.tokens_per_s, progress.eta_s, progress.fraction) == (None, None, None, 0.0)


def test_a_steady_pace_gives_its_rates_and_the_time_left():
    progress = progress_of(*(point(at, 2 * at) for at in range(0, 101, 2)))
    assert progress.rows_per_s == pytest.approx(2)
    assert (progress.prompt_tokens_per_s, progress.output_tokens_per_s) == (pytest.approx(200), pytest.approx(100))
    assert progress.tokens_per_s == pytest.approx(300)
    assert progress.fraction == pytest.approx(0.2)
    assert progress.eta_s == pytest.approx(400, rel=0.01)
    assert progress.eta_low_s < 400 < progress.eta_high_s


def test_rates_are_known_from_one_status():
    """`status` has not watched: what the ledger keeps is enough."""
    now = status_at(point(100, 200)).model_copy(update={"earlier": point(40, 80)})
    assert JobProgress.of(now).rows_per_s == pytest.approx(2)


def test_waiting_and_loading_are_in_no_rate():
    loading = [point(at, 0, active=0) for at in range(0, 500, 5)]
    working = [point(500 + at, 2 * at, active=at) for at in range(0, 51, 2)]
    progress = progress_of(*loading, *working)
    assert progress.rows_per_s == pytest.approx(2)
    assert progress.eta_s == pytest.approx(450, rel=0.01)
    assert (progress.elapsed_s, progress.computing_s) == (550, 50)


def test_tokens_of_unfinished_rows_move_it_on():
    before = point(50, 100)
    after = before._replace(
        at_ms=before.at_ms + 10_000, active_ms=60_000, worker_ms=60_000, computed_output_tokens=9000
    )
    assert progress_of(before, after).fraction > progress_of(before).fraction
    assert progress_of(before, after).output_tokens_per_s > 0


def test_a_second_worker_halves_the_time_left():
    alone = [point(at, 2 * at) for at in range(0, 101, 2)]
    joined = alone[-1]._replace(workers=2, at_ms=alone[-1].at_ms + 10)
    one, two = progress_of(*alone), progress_of(*alone, joined)
    assert two.eta_s == pytest.approx(one.eta_s / 2, rel=0.2)


def test_no_time_left_without_a_worker_or_in_a_pause():
    points = [point(at, 2 * at) for at in range(0, 101, 2)]
    assert progress_of(*points, workers={}, shards_computing=0).eta_s is None
    assert progress_of(*points, state=JobState.PAUSED).eta_s is None


def test_few_rows_are_no_evidence():
    assert progress_of(point(0, 0), point(20, 3)).eta_s is None
    assert progress_of(point(0, 0), point(20, 9)).eta_s is not None


def test_work_that_was_lost_counts_once():
    up = [point(at, 2 * at) for at in range(0, 51, 2)]
    again = [point(50 + at, 60 + 2 * at) for at in range(0, 51, 2)]
    assert progress_of(*up, *again).rows_per_s == pytest.approx(2, rel=0.05)


def test_rows_of_an_earlier_attempt_are_done_at_once_and_no_pace():
    up = [point(at, 2 * at) for at in range(0, 51, 2)]
    # 60 rows are lost with the shard; a moment later the next attempt has 50 of them from seals
    taken = {"reused_rows": 50, "reused_prompt_tokens": 50 * PROMPT, "reused_output_tokens": 50 * OUTPUT}
    lost = point(51, 40)
    again = [point(52 + at, 90 + 2 * at)._replace(**taken) for at in range(0, 21, 2)]
    progress = progress_of(*up, lost, *again, **taken)
    assert progress.rows_per_s == pytest.approx(2, rel=0.05)
    assert progress.tokens_per_s == pytest.approx(2 * (PROMPT + OUTPUT), rel=0.05)
    assert progress.rows_done == 130
    assert progress.fraction == pytest.approx(130 / ROWS, rel=0.02)


def test_a_job_that_ended_shows_its_mean_over_the_time_it_computed():
    done = job_status(state=JobState.DONE, rows_done=1000, ended=1050.0)
    progress = JobProgress.of(done)
    assert (progress.rows_per_s, progress.elapsed_s, progress.eta_s) == (pytest.approx(20), 50.0, None)
    assert JobProgress.of(done.model_copy(update={"active_seconds": 25.0})).rows_per_s == pytest.approx(40)


def test_rows_without_tokens_count_as_rows():
    points = [HistoryPoint(1000 * at, rows=2 * at, active_ms=1000 * at, worker_ms=1000 * at) for at in range(0, 51, 2)]
    progress = progress_of(*points, workers={"w": 1})
    assert (progress.rows_per_s, progress.fraction) == (pytest.approx(2), pytest.approx(0.1))
    assert progress.eta_s == pytest.approx(450, rel=0.01)


def test_a_job_of_no_rows_is_complete():
    assert JobProgress.of(job_status(rows=0, rows_done=0)).fraction == 1.0


def test_the_cost_of_a_prompt_is_learnt_where_prompts_and_outputs_come_apart():
    """A second for 1000 prompt tokens or for 50 output tokens, in turn."""
    points, prompt, output = [], 0, 0
    for at in range(60):
        prompt, output = (prompt + 1000, output) if at % 2 else (prompt, output + 50)
        times = {"active_ms": 1000 * at, "worker_ms": 1000 * at}
        points.append(HistoryPoint(at, computed_prompt_tokens=prompt, computed_output_tokens=output, **times))
    assert cost_ratio(points) == pytest.approx(0.05, rel=0.1)


numbers = st.integers(0, 10**7)
any_point = st.builds(
    HistoryPoint,
    **dict.fromkeys(HistoryPoint._fields, numbers),
)
any_status = st.builds(
    job_status,
    rows=st.integers(1, 10**6),
    rows_done=st.integers(0, 10**6),
    running_rows=numbers,
    running_tokens=numbers,
    prompt_tokens=numbers,
    output_tokens=numbers,
    computed_prompt_tokens=numbers,
    computed_output_tokens=numbers,
    active_seconds=st.floats(0, 10**6),
    worker_seconds=st.floats(0, 10**7),
    shards=st.integers(1, 1000),
    shards_computing=st.integers(0, 3),
    row_output=st.floats(0, 1000),
    workers=st.sampled_from([{}, {"a": 1}, {"a": 2, "b": 1}]),
)


@given(any_status, st.lists(any_point, max_size=6))
def test_whatever_a_broken_history_holds_numbers_stay_sane(status, history):
    progress = JobProgress.of(status, history)
    numbers = [number for number in astuple(progress) if number is not None]
    assert all(number >= 0 for number in numbers)
    assert progress.fraction <= 1
    if progress.eta_s is not None:
        assert progress.eta_low_s <= progress.eta_s <= progress.eta_high_s
    assert RATIOS[0] <= cost_ratio(history) <= RATIOS[1]
