"""The hook of an operator, and what is told of jobs that are stalled or paused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from parquetry.monitor import stall_notices
from parquetry.monitor.stall_notices import tell_stalls
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from parquetry.schemas.settings_files import FOLDER_FILE, SettingsFileError
from parquetry.tasks import hooks
from parquetry.tasks.hooks import run_due_hooks
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.messenger import Messenger
from tests.chaos.process import wait_until
from tests.integration.records import make_record

QUEUES = ("default",)


@pytest.fixture(autouse=True)
def fresh_settings():
    yield
    settings.cache_clear()


@pytest.fixture
def told(tmp_path: Path, monkeypatch) -> Path:
    """Where the hook writes: a line an event, with what is on its input behind it."""
    file = tmp_path / "told"
    command = f'echo "$PARQUETRY_EVENT $PARQUETRY_JOB" >> {file}; cat >> {file}; echo >> {file}'
    monkeypatch.setenv("PARQUETRY_ON_EVENT", command)
    settings.cache_clear()
    return file


def lines(told: Path) -> list[str]:
    return told.read_text().splitlines() if told.exists() else []


def test_the_hook_is_run_once_for_the_end_of_any_job(ledger: Ledger, told):
    ledger.register(make_record())
    assert run_due_hooks(ledger) == 0
    ledger.set_state("job-1", JobState.CANCELLED)
    assert run_due_hooks(ledger) == 1
    assert run_due_hooks(ledger, ahead_s=10**6) == 0
    line, body = lines(told)
    assert line == "job.cancelled job-1"
    assert json.loads(body)["rows"] == 40


def test_a_hook_that_fails_is_run_again_and_given_up(ledger, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(hooks, "MAX_TRIES", 2)
    monkeypatch.setenv("PARQUETRY_ON_EVENT", "echo out of paper >&2; exit 3")
    settings.cache_clear()
    ledger.register(make_record())
    ledger.set_state("job-1", JobState.FAILED)
    assert run_due_hooks(ledger) == 0
    assert run_due_hooks(ledger, ahead_s=30) == 0
    assert ledger.hooks.take(ahead_s=10**6) is None
    assert "ended with code 3: out of paper, in 2 tries" in caplog.text


def test_a_hook_that_hangs_is_stopped(ledger, monkeypatch, caplog):
    monkeypatch.setattr(hooks, "TIMEOUT_S", 0.2)
    monkeypatch.setenv("PARQUETRY_ON_EVENT", "exec sleep 600")
    settings.cache_clear()
    ledger.register(make_record())
    ledger.set_state("job-1", JobState.DONE)
    assert run_due_hooks(ledger) == 0
    assert "took longer than 0.2 s" in caplog.text


def test_without_a_hook_events_are_kept_within_bounds(ledger, client, keys):
    ledger.register(make_record())
    for _ in range(600):
        ledger.set_state("job-1", JobState.CANCELLED)
        ledger.set_state("job-1", JobState.RUNNING)
        client.zadd(keys.hooks, {f"x {client.incr('n')}": 0})
    client.delete("n")
    assert client.zcard(keys.hooks) <= 1001
    assert run_due_hooks(ledger) == 0


def test_what_nobody_had_a_hook_for_is_not_told_days_later(ledger, told, client, keys):
    now = time.time()
    for age_days in (2, 0):
        member = f"job-{age_days} done {int(1000 * (now - 86_400 * age_days))} hook"
        client.zadd(keys.hooks, {member: 0})
    assert run_due_hooks(ledger) == 1
    assert [line for line in lines(told) if "job." in line.split(" ")[0]] == ["job.done job-0"]


def test_nothing_of_a_job_gets_into_the_command(ledger, told):
    ledger.register(make_record(output="/out/$(touch planted)", model="`touch planted`"))
    ledger.set_state("job-1", JobState.DONE)
    assert run_due_hooks(ledger) == 1
    assert json.loads(lines(told)[1])["model"] == "`touch planted`"
    assert not list(told.parent.glob("planted*"))


def test_a_working_folder_sets_no_hook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FOLDER_FILE.write_text('on_event = "touch planted"')
    settings.cache_clear()
    with pytest.raises(SettingsFileError, match="may not set on_event"):
        settings()


@pytest.fixture
def stalled(ledger: Ledger, client, keys, monkeypatch) -> str:
    """A job that no worker serves, for longer than anybody waits."""
    monkeypatch.setattr(stall_notices, "LOOK_S", 0.001)
    ledger.register(make_record(notify=["https://hooks.example/x"]))
    client.hincrby(keys.of_job("job-1", "ctl"), "created", -3_600_000)
    return "job-1"


def test_a_stalled_job_is_told_of_once(stalled, ledger, told, client, keys):
    assert look(ledger) == []
    set_back(client, keys, stalled)
    assert look(ledger) == [stalled]
    assert look(ledger) == []
    assert run_due_hooks(ledger) == 1
    assert lines(told)[0] == "job.stalled job-1"
    assert (ledger.outbox.take().event, ledger.outbox.take()) == ("stalled", None)


def test_a_job_that_goes_on_and_stalls_again_is_told_of_again(stalled, ledger, client, keys):
    look(ledger)
    set_back(client, keys, stalled)
    assert look(ledger) == [stalled]
    ledger.roster.announce("w", host="h", device="cpu", queues=QUEUES, shards_in_flight=1)
    assert look(ledger) == []
    assert client.hget(keys.of_job(stalled, "ctl"), "stalled") is None
    ledger.roster.retire("w")
    look(ledger)
    set_back(client, keys, stalled)
    assert look(ledger) == [stalled]


def test_a_paused_job_is_not_stalled(stalled, ledger, client, keys):
    look(ledger)
    ledger.set_state(stalled, JobState.PAUSED)
    assert look(ledger) == []
    assert client.hget(keys.of_job(stalled, "ctl"), "stalled") is None


def test_one_process_looks_at_a_time(stalled, ledger, monkeypatch):
    monkeypatch.setattr(stall_notices, "LOOK_S", 600.0)
    assert ledger.take_turn("stalls", 600.0)
    monkeypatch.setattr(ledger, "census", lambda: pytest.fail("it looked"))
    assert tell_stalls(ledger) == []


def test_a_messenger_does_its_chores_and_outlives_their_faults(ledger, told):
    ledger.register(make_record())

    def end(of: Ledger) -> None:
        of.set_state("job-1", JobState.CANCELLED)
        raise RuntimeError("a fault")

    messenger = Messenger(ledger, 0.01, (end,))
    messenger.start()
    wait_until(lambda: lines(told)[:1] == ["job.cancelled job-1"], 20, "the hook")
    messenger.stop()


def look(ledger: Ledger) -> list[str]:
    """Look when the turn of the one before is over."""
    wait_until(lambda: ledger.take_turn("stalls", 0.001), 5, "the turn")
    wait_until(lambda: not ledger._client.exists(ledger._keys.lock("stalls")), 5, "its end")
    return tell_stalls(ledger)


def set_back(client, keys, job: str) -> None:
    """As if it had stalled ten minutes ago."""
    since = int(client.hget(keys.of_job(job, "ctl"), "stalled"))
    client.hset(keys.of_job(job, "ctl"), "stalled", since - 600_000)
