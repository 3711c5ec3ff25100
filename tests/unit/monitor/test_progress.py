import pytest

from parquetry.monitor.job_progress import History, JobProgress, smoothed_rate
from parquetry.schemas.states import JobState
from tests.unit.monitor.made_statuses import job_status


def samples(*points):
    """Statuses from (now, rows done, rows in running shards)."""
    return [job_status(now=1000.0 + at, rows_done=done, running_rows=running) for at, done, running in points]


def test_one_sample_has_no_rate():
    progress = JobProgress.of(samples((0, 400, 0)))
    assert (progress.rows_per_s, progress.tokens_per_s, progress.eta_s) == (None, None, None)
    assert progress.fraction == 0.4


def test_a_steady_pace_gives_that_rate_and_the_time_left():
    progress = JobProgress.of(samples((0, 0, 0), (10, 100, 0), (20, 200, 0)))
    assert progress.rows_per_s == pytest.approx(10)
    assert progress.eta_s == pytest.approx(80)


def test_rows_inside_running_shards_count():
    progress = JobProgress.of(samples((0, 0, 0), (10, 100, 50)))
    assert progress.rows_done == 150
    assert progress.rows_per_s == pytest.approx(15)


def test_recent_movement_weighs_more_than_old():
    rate = smoothed_rate(samples((0, 0, 0), (20, 200, 0), (40, 800, 0)))
    assert 20 < rate < 30


def test_a_commit_does_not_make_the_rate_jump():
    steady = samples((0, 0, 90), (10, 0, 190), (20, 200, 90))
    assert smoothed_rate(steady) == pytest.approx(10)


def test_lost_rows_lower_the_rate_and_a_stall_has_none():
    assert smoothed_rate(samples((0, 0, 300), (10, 0, 0))) is None
    assert smoothed_rate(samples((0, 100, 0), (10, 100, 0))) is None
    assert smoothed_rate(samples((0, 100, 0), (0, 200, 0))) is None


def test_the_wait_for_a_beat_does_not_lower_the_rate():
    waiting = samples((0, 0, 0), (10, 0, 100), (15, 0, 100), (24, 0, 100))
    assert smoothed_rate(waiting) == pytest.approx(10)


def test_a_wait_longer_than_a_stall_does():
    stalled = samples((0, 0, 0), (10, 0, 100), (50, 0, 100))
    assert smoothed_rate(stalled) < 5


def test_tokens_of_running_rows_count():
    running = job_status(
        now=1010.0, rows_done=0, running_rows=100, running_tokens=500, prompt_tokens=0, output_tokens=0
    )
    assert JobProgress.of([*samples((0, 0, 0)), running]).tokens_per_s == pytest.approx(50)


def test_tokens_follow_rows():
    assert JobProgress.of([*samples((0, 0, 0)), job_status(now=1010.0)]).tokens_per_s == pytest.approx(40 * 30)


def test_a_finished_job_shows_its_mean_and_no_time_left():
    done = job_status(state=JobState.DONE, rows_done=1000, ended=1050.0)
    progress = JobProgress.of([done])
    assert (progress.rows_per_s, progress.elapsed_s, progress.eta_s) == (pytest.approx(20), 50.0, None)


def test_a_paused_job_has_no_time_left():
    paused = [*samples((0, 0, 0)), job_status(now=1010.0, state=JobState.PAUSED)]
    assert JobProgress.of(paused).eta_s is None


def test_a_job_of_no_rows_is_complete():
    assert JobProgress.of([job_status(rows=0, rows_done=0)]).fraction == 1.0


def test_history_forgets_old_samples():
    history = History(span_s=10)
    for sample in samples((0, 0, 0), (5, 500, 0), (14, 500, 0)):
        progress = history.add(sample)
    assert progress.rows_per_s is None
