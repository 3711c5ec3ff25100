import json

import pyarrow as pa
import pytest
from rich.console import Console

from parquetry.monitor.job_view import JobView
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.states import EnginePhase, JobState
from parquetry.schemas.progress.status import EngineState, EngineStats, ShardFailure
from parquetry.terminal.bars import Bars, Lines
from parquetry.terminal.display import (
    failure_lines,
    number,
    plain_rows,
    rows_table,
    safe_text,
)
from parquetry.terminal.job_lines import error_lines, job_lines, summary, time_range
from parquetry.terminal.job_tables import jobs_table, status_table
from tests.unit.monitor.made_statuses import job_status, worker_status


def rendered(table):
    console = Console(width=200, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


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


def running(**changes):
    """A job of two workers half a minute after its engine was ready; one of them still loads."""
    before = HistoryPoint(1_070_000, rows=100, computed_prompt_tokens=1000, computed_output_tokens=2000)
    status = job_status(
        **{
            "workers": {"w1": 2, "w2": 1},
            "shards_computing": 2,
            "computed_prompt_tokens": 4300,
            "computed_output_tokens": 8600,
            "active_seconds": 30.0,
            "worker_seconds": 30.0,
            "errors": {"the prompt has N tokens": 2, "no text": 1},
            "earlier": before,
            **changes,
        }
    )
    stats = EngineStats(
        seconds=10, busy_seconds=9, computed_tokens=500, decode_tokens=200, padding_tokens=50, running=7
    )
    loading = EngineState(phase=EnginePhase.LOADING, model="/models/tiny", weight_bytes=2_000_000_000)
    first = worker_status(engine=stats, state=EngineState(phase=EnginePhase.READY))
    return JobView.of(status, [first, worker_status(worker="w2", device="cuda:1", state=loading)])


def test_status_shows_phase_rates_engines_and_output():
    text = rendered(status_table(running()))
    wanted = ("400 of 1,000", "110 prompt and 220 output tokens/s", "/data/out", "running", "padding 9%", "left")
    for text_wanted in (*wanted, "cuda:1 of h: loads tiny (2.0 GB)"):
        assert text_wanted in text


def test_jobs_table_never_cuts_an_id():
    views = [running(), running(job="generate-" + "f" * 40)]
    for width in (200, 80, 40):
        console = Console(width=width, markup=False, emoji=False, highlight=False)
        with console.capture() as capture:
            console.print(jobs_table(views, width))
        shown = capture.get().replace("\n", "") if width < 60 else capture.get()
        assert "generate-0123456789ab" in shown
        assert "generate-" + "f" * 40 in shown


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("fancy", [True, False])
def test_lines_of_a_job_fit_any_terminal(width, fancy):
    lines = [line.plain for line in job_lines(running(), width, fancy=fancy)]
    assert all(len(line) <= width for line in lines)
    assert "running" in lines[0]
    assert "%" in lines[0]
    assert fancy or all(line.isascii() for line in lines)


def test_lines_of_a_job_say_what_its_workers_do_and_what_went_wrong():
    lines = [line.plain.strip() for line in job_lines(running(), 200)]
    assert "400/1,000 rows" in lines[0]
    assert lines[1:] == [
        "cpu of h: 30 prompt and 20 output tok/s, 7 rows in work, 0 waiting, padding 9%",
        "cuda:1 of h: loads tiny (2.0 GB)",
        "2 error rows: the prompt has N tokens",
        "1 error rows: no text",
    ]


def test_a_phase_that_waits_says_for_what():
    waiting = running(shards_running=0, workers={}, shards_computing=0, queue="big")
    assert "no live worker serves queue big" in job_lines(waiting, 200)[1].plain


def test_bars_send_nothing_twice(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console = Console(width=60, force_terminal=True, markup=False, color_system=None)
    with console.capture() as capture, Bars(console) as bars:
        bars.show(running())
        once = len(console._record_buffer or console._buffer)
        bars.show(running())
        assert len(console._record_buffer or console._buffer) == once
    assert "running" in capture.get()
    # without colour nothing is coloured
    assert "\x1b[3" not in capture.get()


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(20, 40, "20 to 40 s"), (240, 360, "4 to 6 min"), (5400, 7200, "1.5 to 2 h"), (3, 3, "3 s"), (0, 0.04, "0 s")],
)
def test_a_range_has_one_unit(low, high, text):
    assert time_range(low, high) == text


def test_many_kinds_of_errors_are_the_most_frequent_and_a_rest():
    lines = error_lines({f"kind {number}": 100 - number for number in range(9)})
    assert lines[0].strip() == "100 error rows: kind 0"
    assert lines[-1].strip() == "374 error rows of other kinds"


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
    long = ShardFailure(shard=1, attempts=1, reason=f"writing of /{'folder/' * 60}part failed: No space left on device")
    assert failure_lines(job_status(failures=(long,)))[0].endswith("failed: No space left on device")
    many = tuple(ShardFailure(shard=i, attempts=1, reason=f"reason {i}") for i in range(7))
    assert failure_lines(job_status(failures=many))[-1] == "and 2 more reasons"


def test_summary_says_what_is_known_and_no_more():
    first = job_status(rows_done=0, error_rows=0, prompt_tokens=0, output_tokens=0, shards_running=0, now=1001.0)
    queued = JobView.of(first, [])
    assert summary(queued) == "queued: waits for a worker of queue default, 0%, 0/1,000 rows, 1.0 s so far"
    text = summary(running(shards_failed=1))
    for wanted in ("running, 43%, 400/1,000 rows", "330 tok/s", "3 error rows", "1 failed shards"):
        assert wanted in text


def test_lines_are_printed_on_a_change_of_phase(capsys):
    lines = Lines()
    for state in (JobState.PAUSED, JobState.PAUSED, JobState.DONE):
        lines.show(running(state=state))
    assert len(capsys.readouterr().err.splitlines()) == 2
