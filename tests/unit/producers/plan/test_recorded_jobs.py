"""What a plan says after `--rows 64`, on jobs that ran: how far it is off, and how often its range holds the truth."""

from __future__ import annotations

from statistics import median

import pytest

from tests.unit.producers.plan.recorded_jobs import RecordedJob, recorded_jobs

JOBS = recorded_jobs()


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_takes_about_as_long_as_was_said(job: RecordedJob):
    assert abs(job.error) < 0.35, (job.prediction.seconds, job.seconds)


def test_ranges_hold_in_nine_of_ten():
    held = [job.is_held for job in JOBS]
    assert len(held) >= 10 and sum(held) >= 0.9 * len(held)


def test_the_middle_one_is_off_by_little():
    assert median(abs(job.error) for job in JOBS) < 0.2


def test_as_many_times_longer_as_there_are_more_rows_would_be_far_off():
    """What costs of prompts and steps are for: a small job does not fill its batches."""
    naive = [job.measured.computing_s * job.whole.rows / job.measured.rows / job.seconds - 1 for job in JOBS]
    assert median(map(abs, naive)) > 2 * median(abs(job.error) for job in JOBS)
