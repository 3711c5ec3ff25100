"""A job's history, as the scripts keep it and as it is read."""

import time

import pytest

from parquetry.schemas.progress.history import HistoryPoint, JobHistory
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import EngineStats
from parquetry.tasks.keys import JOB_KEYS
from parquetry.tasks.ledger.claim import BeatReply, CommitReply, LeaseProgress
from parquetry.tasks.ledger.history import MAX_POINTS_DONE
from parquetry.tasks.ledger.ledger import Ledger
from tests.integration.records import make_part, make_record

JOB, QUEUES = "job-1", ("default",)
WEEK_MS = 7 * 24 * 3600 * 1000


@pytest.fixture
def age(client, keys):
    """Makes all that was noted of the job older, as if so many ms had passed."""
    ctl = keys.of_job(JOB, "ctl")

    def age(ms: int) -> None:
        for field in ("pointed", "kept"):
            client.hincrby(ctl, field, -ms)

    return age


def computing(prompt: int = 0, output: int = 0, rows: int = 0) -> LeaseProgress:
    return LeaseProgress(rows=rows, computed_prompt_tokens=prompt, computed_output_tokens=output, is_computing=True)


def announce(ledger: Ledger, worker: str, **stats: float) -> None:
    ledger.roster.announce(
        worker, host="h", device="cpu", queues=QUEUES, shards_in_flight=1, engine=EngineStats(**stats)
    )


def test_a_beat_tells_what_unfinished_rows_have_computed(ledger: Ledger):
    ledger.register(make_record(shards=2))
    first, second = ledger.claim("a", QUEUES), ledger.claim("b", QUEUES)
    ledger.commit(first, make_part(0, prompt_tokens=100, output_tokens=10))
    ledger.beat(second, computing(prompt=40, output=5))
    status = ledger.status(JOB)
    assert (status.computed_prompt_tokens, status.computed_output_tokens) == (140, 15)
    assert (status.prompt_tokens, status.output_tokens) == (100, 10)
    assert (status.shards_running, status.shards_computing, status.workers) == (1, 1, {"b": 1})


def test_reused_rows_are_told_while_they_run_and_once_they_are_committed(ledger: Ledger):
    ledger.register(make_record(shards=3))
    first, second = ledger.claim("a", QUEUES), ledger.claim("b", QUEUES)
    reused = {"reused_rows": 4, "reused_prompt_tokens": 40, "reused_output_tokens": 2}
    ledger.beat(first, LeaseProgress(rows=5, row_output=1.5, is_computing=True, **reused))
    ledger.commit(second, make_part(1, prompt_tokens=100, output_tokens=10).model_copy(update=reused))
    status = ledger.status(JOB)
    # which adds a point
    ledger.set_state(JOB, JobState.PAUSED)
    for found in (status, ledger.history(JOB)[-1]):
        assert (found.reused_rows, found.reused_prompt_tokens, found.reused_output_tokens) == (8, 80, 4)
    assert (status.running_rows, status.row_output) == (5, 1.5)
    ledger.release(first)
    assert ledger.status(JOB).reused_rows == 4


def test_points_are_added_by_beats_and_tell_of_the_engines(ledger: Ledger, age):
    ledger.register(make_record(shards=2))
    announce(ledger, "a", computed_tokens=90, padding_tokens=10, running=3, kv_use=0.25)
    claim = ledger.claim("a", QUEUES)
    ledger.beat(claim, LeaseProgress())
    age(4000)
    ledger.beat(claim, computing(prompt=50, output=7, rows=2))
    ledger.beat(claim, computing(prompt=60, output=8, rows=2))
    first, second = ledger.histories.read(JOB)
    assert (first.rows, first.shards_running, first.workers, first.engine_computed_tokens) == (0, 1, 0, 0)
    assert (second.rows, second.computed_prompt_tokens, second.computed_output_tokens) == (2, 50, 7)
    assert (second.workers, second.requests_running, second.kv_use) == (1, 3, 250)
    assert (second.engine_computed_tokens, second.engine_padding_tokens) == (90, 10)
    assert ledger.status(JOB).earlier == first


def test_loading_silence_and_pauses_are_nobodys_work(ledger: Ledger, age):
    ledger.register(make_record(shards=2))
    claim = ledger.claim("a", QUEUES)
    ledger.beat(claim, LeaseProgress())
    age(5000)
    # until here the engine loaded
    ledger.beat(claim, computing())
    assert ledger.status(JOB).active_seconds < 1
    age(7000)
    ledger.beat(claim, computing(output=10))
    assert 7 <= ledger.status(JOB).active_seconds < 8
    # a worker that died: nobody beats until its shard is somebody else's
    age(60_000)
    ledger.beat(claim, computing(output=10))
    assert ledger.status(JOB).active_seconds < 8
    ledger.set_state(JOB, JobState.PAUSED)
    age(20_000)
    ledger.set_state(JOB, JobState.RUNNING)
    assert ledger.status(JOB).active_seconds < 9


def test_even_the_shortest_job_has_computed_for_a_while(ledger: Ledger):
    """The first beat with an engine is a point, however soon after another; so is the last commit."""
    ledger.register(make_record(shards=1))
    claim = ledger.claim("a", QUEUES)
    ledger.beat(claim, LeaseProgress())
    ledger.beat(claim, computing())
    time.sleep(0.05)
    ledger.commit(claim, make_part(0, output_tokens=10))
    assert 0.05 <= ledger.status(JOB).active_seconds < 2
    assert len(ledger.histories.read(JOB)) == 3


def test_two_workers_count_twice(ledger: Ledger, age):
    ledger.register(make_record(shards=2))
    claims = [ledger.claim(worker, QUEUES) for worker in "ab"]
    for claim in claims:
        ledger.beat(claim, computing())
    age(5000)
    ledger.beat(claims[0], computing())
    age(5000)
    ledger.beat(claims[0], computing())
    status = ledger.status(JOB)
    assert status.active_seconds < status.worker_seconds
    assert 14 <= status.worker_seconds < 17


def test_a_job_of_a_week_takes_less_than_100_kb(ledger: Ledger, client, keys, age):
    """A point every two seconds of a week, with numbers as large as they get, and a thousand between two looks."""
    ledger.register(make_record(shards=2))
    announce(ledger, "a", computed_tokens=10**13, padding_tokens=10**12, prompt_tokens=10**13, running=10**5)
    claim = ledger.claim("a", QUEUES)
    told = computing(prompt=10**13, output=10**12, rows=10**10)
    step_ms, passed_ms = 2000, 0
    while passed_ms < WEEK_MS:
        ledger.beat(claim, told)
        # the points between are those that thinning drops
        age(step_ms)
        passed_ms += step_ms
        step_ms = int(client.hget(keys.of_job(JOB, "ctl"), "step_ms") or 2000)
    size = sum(client.memory_usage(keys.of_job(JOB, name)) or 0 for name in ("past", "late"))
    assert 20_000 < size < 100_000
    assert 200 < len(ledger.histories.read(JOB)) < 500


def test_history_goes_with_the_job_and_is_thinned_at_its_end(ledger: Ledger, client, keys, age):
    ledger.register(make_record(shards=1))
    claim = ledger.claim("a", QUEUES)
    for number in range(300):
        ledger.beat(claim, computing(output=number))
        age(2000)
    ledger.commit(claim, make_part(0, output_tokens=300))
    ledger.set_state(JOB, JobState.DONE)
    ledger.forget(JOB)
    points = ledger.histories.read(JOB)
    assert 20 < len(points) <= MAX_POINTS_DONE
    assert (points[0].computed_output_tokens, points[-1].computed_output_tokens) == (0, 300)
    assert ledger.remove(JOB)
    assert not client.exists(*(keys.of_job(JOB, name) for name in JOB_KEYS))


def test_history_is_restored_with_the_time_it_counted(ledger: Ledger):
    points = (HistoryPoint(1000), HistoryPoint(61_000, rows=10, active_ms=50_000, worker_ms=90_000))
    written = JobHistory.of(JOB, points).model_dump_json()
    ledger.register(make_record(shards=2), history=JobHistory.model_validate_json(written).read())
    assert ledger.histories.read(JOB) == points
    status = ledger.status(JOB)
    assert (status.active_seconds, status.worker_seconds) == (50.0, 90.0)


def test_kinds_of_errors_are_added_up_and_bounded(ledger: Ledger):
    ledger.register(make_record(shards=3))
    claims = [ledger.claim("a", QUEUES) for _ in range(3)]
    ledger.commit(claims[0], make_part(0, error_rows=3, errors={"too long": 2, "no text": 1}))
    ledger.commit(claims[1], make_part(1, error_rows=5, errors={"too long": 5}))
    assert ledger.status(JOB).errors == {"too long": 7, "no text": 1}
    ledger.commit(claims[2], make_part(2, errors={f"kind {number}": 1 for number in range(300)}))
    errors = ledger.status(JOB).errors
    assert len(errors) <= 201
    assert errors["other reasons"] == 300 + 2 - 200


def test_durations_of_shards_are_counted(ledger: Ledger):
    ledger.register(make_record(shards=2))
    claims = [ledger.claim("a", QUEUES) for _ in range(2)]
    ledger.commit(claims[0], make_part(0, shard_ms=1500, prepare_ms=400, write_ms=30))
    ledger.adopt(JOB, make_part(1))
    status = ledger.status(JOB)
    assert (status.shard_seconds, status.prepare_seconds, status.write_seconds) == (1.5, 0.4, 0.03)
    assert sum(status.shard_durations) == 1
    assert status.shard_durations[1] == 1


def test_a_point_of_another_version_is_read_as_far_as_it_is_known():
    assert HistoryPoint.parse("5:1:2").rows == 1
    assert HistoryPoint.parse(":".join(map(str, range(60)))).row_output == 20
    old = JobHistory(job=JOB, fields=("at_ms", "gone", "rows"), points=((1, 2, 3),))
    assert old.read() == (HistoryPoint(1, rows=3),)


def test_no_point_is_added_within_two_seconds(ledger: Ledger):
    ledger.register(make_record(shards=1))
    claim = ledger.claim("a", QUEUES)
    for _ in range(5):
        ledger.beat(claim, computing())
        time.sleep(0.001)
    assert len(ledger.histories.read(JOB)) == 1


@pytest.mark.parametrize("damage", ["engine", "past"])
def test_a_history_that_cannot_be_noted_stops_nothing(damage, ledger: Ledger, client, keys):
    ledger.register(make_record(JOB, shards=1))
    announce(ledger, "w", running=1)
    claim = ledger.claim("w", QUEUES)
    assert claim is not None
    if damage == "engine":
        client.hset(keys.worker("w"), "engine", "{")
    else:
        client.delete(keys.of_job(JOB, "past"))
        client.set(keys.of_job(JOB, "past"), "x")
    assert ledger.beat(claim, computing(10)) is BeatReply.OK
    assert ledger.commit(claim, make_part(0)) is CommitReply.LAST
    assert client.hget(keys.of_job(JOB, "ctl"), "done") == "1"
