import json

import pyarrow as pa
import pytest
from rich.console import Console

from parquetry.monitor.job_progress import JobProgress
from parquetry.schemas.states import JobState
from parquetry.schemas.status import ShardFailure
from parquetry.terminal.bars import Lines, summary
from parquetry.terminal.display import (
    duration,
    failure_lines,
    jobs_table,
    number,
    plain_rows,
    rows_table,
    safe_text,
    status_table,
)
from tests.unit.monitor.made_statuses import job_status


def rendered(table):
    console = Console(width=200, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3725, "1 h 02 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0, "0"), (3.44, "3.4"), (12345.6, "12,346")])
def test_number(value, text):
    assert number(value) == text


def test_terminal_control_characters_are_shown_not_sent():
    assert safe_text("a\x1b[2Jb\nc\x00\u202e") == "a\\x1b[2Jb\\nc\\x00\\u202e"


def test_long_text_is_cut():
    assert safe_text("x" * 100_000, limit=10) == "xxxxxxx..."


def test_sample_rows_keep_markup_as_text():
    table = pa.table({"[red]text": ["[bold]hi[/bold] :smile:", None], "embedding": [[0.5] * 384, [0.25] * 2]})
    text = rendered(rows_table(table))
    assert "[bold]hi[/bold] :smile:" in text
    assert "[red]text" in text
    assert "384 values" in text


def test_a_sample_leaves_out_counts_and_an_empty_error_column():
    rows = pa.table({"output": ["a"], "prompt_tokens": [3], "error": pa.array([None], pa.string())})
    assert "error" not in rendered(rows_table(rows))
    assert "prompt_tokens" not in rendered(rows_table(rows))
    assert "too long" in rendered(rows_table(rows.set_column(2, "error", [["too long"]])))


def test_status_shows_rows_speed_and_output():
    status = job_status(rows_done=1000, state=JobState.DONE, ended=1050.0)
    text = rendered(status_table(status, JobProgress.of([status])))
    for wanted in ("1,000 of 1,000", "20 rows/s", "240 tokens/s", "50 s so far", "/data/out"):
        assert wanted in text


def test_jobs_table_has_a_line_a_job():
    assert rendered(jobs_table([job_status(), job_status(job="other")])).count("400 of 1,000") == 2


def test_rows_are_shown_whatever_they_hold():
    table = pa.table(
        {
            "ns": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
            "far": pa.array([3 * 10**17], pa.timestamp("us")),
            "broken": pa.array([b"\xff"], pa.binary()).view(pa.string()),
            "bytes": pa.array([b"\xff"]),
            "id": pa.array([bytes(16)], pa.uuid()),
        }
    )
    shown = rendered(rows_table(table))
    for text in ("2023-11-14T22:13:20.123456789", "11476-08-15T05:20:00", "not valid UTF-8", "00000000-0000"):
        assert text in shown
    assert json.dumps(plain_rows(table))


def test_failures_are_grouped_by_reason_up_to_a_limit():
    one = ShardFailure(shard=9, attempts=1, reason="odd")
    failures = (*(ShardFailure(shard=i, attempts=3, reason="no\nluck") for i in range(8)), one)
    assert failure_lines(job_status(failures=failures)) == [
        "shards 0, 1, 2, 3, 4 and 3 more: no\\nluck",
        "shard 9: odd",
    ]
    many = tuple(ShardFailure(shard=i, attempts=1, reason=f"reason {i}") for i in range(7))
    assert failure_lines(job_status(failures=many))[-1] == "and 2 more reasons"


def test_summary_says_what_is_known_and_no_more():
    first = job_status(rows_done=0, error_rows=0, prompt_tokens=0, output_tokens=0)
    assert summary(first, JobProgress.of([first])) == "0/1,000 rows"
    later = job_status(now=1110.0, shards_failed=1)
    text = summary(later, JobProgress.of([first, later]))
    assert text == "400/1,000 rows, 40 rows/s, 1,200 tok/s, 15 s left, 3 error rows, 1 failed shards"


def test_lines_are_printed_on_a_change_of_state(capsys):
    lines = Lines()
    for state in (JobState.RUNNING, JobState.RUNNING, JobState.DONE):
        lines.show(job_status(state=state))
    assert len(capsys.readouterr().err.splitlines()) == 2
