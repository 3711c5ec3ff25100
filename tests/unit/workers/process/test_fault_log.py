"""What a supervisor remembers of errors that engines raised."""

from __future__ import annotations

from parquetry.workers.process.fault_log import MAX_FAULTS, FaultLog


def test_faults_of_one_reason_are_told_together_whatever_its_numbers():
    log = FaultLog()
    assert log.note("size 512 and 600", {"job/3", "job/4"}) == [[3, 4]]
    assert log.note("another", {"job/7"}) == [[7]]
    assert log.note("size 512 and 700", {"job/5"}) == [[3, 4], [5]]


def test_faults_of_another_job_are_not():
    log = FaultLog()
    log.note("size", {"job/3"})
    assert log.note("size", {"other/3"}) == [[3]]


def test_nothing_is_told_where_rows_of_several_jobs_were_in_flight_or_of_nobody():
    log = FaultLog()
    assert log.note("size", {"job/3", "other/4"}) == []
    assert log.note("size", {""}) == []
    assert log.note("size", set()) == []
    assert log.note("size", {"job/5"}) == [[5]]


def test_only_the_last_faults_are_kept():
    log = FaultLog()
    for shard in range(2 * MAX_FAULTS):
        faults = log.note("size", {f"job/{shard}"})
    assert len(faults) == MAX_FAULTS
    assert faults[-1] == [2 * MAX_FAULTS - 1]
