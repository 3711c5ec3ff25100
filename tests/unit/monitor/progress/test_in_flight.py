from dataclasses import replace

from parquetry.monitor.progress.in_flight import WorkInFlight
from parquetry.tasks.ledger.claim import LeaseProgress
from parquetry.terminal.job_lines import in_flight_line
from tests.unit.monitor.made_statuses import job_status


def test_what_is_finished_and_what_is_not_are_told_apart():
    status = job_status(
        running_rows=12,
        running_tokens=600,
        computed_prompt_tokens=4700,
        computed_output_tokens=8900,
        worker_seconds=136.0,
    )
    work = WorkInFlight.of(status)
    assert (work.rows, work.tokens, work.unfinished_tokens) == (12, 600, 1000)
    assert work.unfinished_s == 10.0
    line = (
        "In flight: 2 shards with 12 finished rows (600 tokens), which are kept, and 1,000 tokens of unfinished rows,"
    )
    assert in_flight_line(work) == f"{line} which are dropped (about 10 s of work)."
    assert "which are kept" not in in_flight_line(work, are_kept=False)


def test_nothing_in_flight_is_said():
    idle = WorkInFlight.of(job_status(shards_running=0))
    assert (idle.unfinished_tokens, in_flight_line(idle)) == (0, "Nothing is in flight.")


def test_what_a_beat_told_is_read_back():
    told = LeaseProgress(rows=3, prompt_tokens=9, computed_prompt_tokens=12, is_computing=True, row_output=1.5)
    told = replace(told, reused_rows=2, reused_prompt_tokens=5, reused_output_tokens=1)
    assert LeaseProgress.parse(told.text) == told
    assert LeaseProgress.parse("") == LeaseProgress()
