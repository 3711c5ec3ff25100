"""The estimates on jobs that really ran, at every point of their history."""

import statistics
from itertools import pairwise

import pytest

from parquetry.monitor.progress.job_progress import JobProgress
from parquetry.schemas.progress.status import JobStatus
from tests.unit.monitor.progress.replay import Moment, Recording

#: steps of 0.1 s take as long however few rows they have; outputs of 40 tokens on average, or all of 180
STEADY = ("steady", "long_outputs")
#: 135M parameters on two cores that other work was busy on; rows that grow; a worker that joins and is killed
UNEVEN = ("demo", "mixed_shards", "joins_and_dies")


def judged(name: str) -> list[Moment]:
    """Moments after the first tenth at which a time was told, but for the last seconds, where a part means little."""
    found = [moment for moment in Recording.load(name).moments() if moment.share >= 0.1]
    last = max(5.0, 0.05 * found[0].left_s)
    return [moment for moment in found if moment.progress.eta_s is not None and moment.left_s > last]


@pytest.mark.parametrize("name", STEADY)
def test_a_steady_jobs_time_left_is_right_within_a_fifth(name):
    """Of what is left, or of a twentieth of the whole where less is left than a quarter."""
    whole = Recording.load(name).points[-1].at_ms / 1000 - Recording.load(name).points[0].at_ms / 1000
    for moment in judged(name):
        assert abs(moment.progress.eta_s - moment.left_s) <= max(0.2 * moment.left_s, 0.05 * whole), moment


@pytest.mark.parametrize("name", [*STEADY, *UNEVEN])
def test_the_range_holds_the_truth_more_often_than_not(name):
    moments = judged(name)
    if name == "joins_and_dies":
        # nobody can know that a worker will join, or be killed
        last = max(m.seconds for m in moments if len(m.status.workers) == 2)
        moments = [m for m in moments if m.seconds > last + 5]
    held = [m.progress.eta_low_s <= m.left_s <= m.progress.eta_high_s for m in moments]
    assert statistics.mean(held) > 0.5


@pytest.mark.parametrize("name", UNEVEN)
def test_an_uneven_jobs_time_left_is_of_the_right_size(name):
    assert statistics.median(abs(moment.error) for moment in judged(name)) < 0.3


@pytest.mark.parametrize("name", [*STEADY, *UNEVEN])
def test_progress_of_a_job_goes_forward(name):
    fractions = [moment.progress.fraction for moment in Recording.load(name).moments()]
    assert fractions[-1] > 0.9
    back = sum(max(0.0, earlier - later) for earlier, later in pairwise(fractions))
    assert back < 0.35


def test_a_worker_that_joins_and_one_that_dies_show_in_the_time_left():
    moments = list(Recording.load("joins_and_dies").moments())
    alone = [m for m in moments if len(m.status.workers) == 1 and m.progress.eta_s]
    both = [m for m in moments if len(m.status.workers) == 2 and m.progress.eta_s]
    assert both and alone
    before = next(m for m in reversed(alone) if m.seconds < both[0].seconds)
    assert both[1].progress.eta_s < 0.8 * before.progress.eta_s


def test_a_status_without_its_history_tells_nearly_the_same():
    """What `jobs` shows, where no history is read."""
    recording = Recording.load("steady")
    for number, moment in list(enumerate(recording.moments()))[20::10]:
        points = [point for point in recording.points if point.at_ms <= moment.status.now * 1000]
        status: JobStatus = moment.status.model_copy(update={"earlier": points[-30 if len(points) > 30 else 0]})
        assert JobProgress.of(status).rows_per_s == pytest.approx(moment.progress.rows_per_s, rel=0.35), number
