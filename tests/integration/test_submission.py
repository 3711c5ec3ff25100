"""Submitting against a real server: the output first, the queue second, and the same job as often as you like."""

from __future__ import annotations

import os
import shutil
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from parquetry.monitor.progress.job_phase import job_phase
from parquetry.producers import preparing
from parquetry.producers.purge import purge, purge_older
from parquetry.producers.submission import submit
from parquetry.schemas.errors import (
    BrokerUnreachableError,
    IllegalTransitionError,
    InputReplacedError,
    OutputTakenError,
)
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.states import JobPhase, JobState
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.job_record import cached_record
from parquetry.tasks.ledger.claim import BeatReply, PrepareReply
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.recovery import recover
from tests.integration.records import make_part
from tests.unit.workers.tiny_model import make_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.table({"text": ["x"] * 100}), tmp_path / "in" / f"{name}.parquet")
    make_model(tmp_path / "model")
    return tmp_path


@pytest.fixture
def spec(folder):
    def make(**sections) -> JobSpec:
        return JobSpec.parse(
            {
                "task": "embed",
                "input": {"path": f"{folder}/in"},
                "output": {"path": f"{folder}/out"},
                "model": {"id": f"{folder}/model"},
                "shards": {"rows": 50},
                **sections,
            }
        )

    return make


def test_submitted(spec, ledger, folder, server):
    made = submit(spec(), ledger, broker_url=server.url)
    assert made.created
    status = ledger.status(made.job)
    assert (status.state, status.shards, status.rows, status.queue) == (JobState.RUNNING, 4, 200, "default")
    record = JobRecord.model_validate_json((folder / "out" / "_job.json").read_text())
    assert record == made.record
    assert record.shard_plan.bounds == (0, 50, 100, 150, 200)
    assert ledger.permits("default") > 0


def test_the_same_again_is_the_same_job(spec, ledger, folder):
    first = submit(spec(), ledger)
    before = os.stat(folder / "out" / "_job.json")
    again = submit(spec(priority=0), ledger)
    assert not again.created
    assert again.record == first.record
    assert os.stat(folder / "out" / "_job.json") == before
    assert len(ledger.jobs()) == 1


@pytest.mark.parametrize("backend", ["optimum", "vllm"])
def test_back_ends_with_an_environment_of_their_own_have_their_own_queue(backend, spec, ledger, folder):
    made = submit(spec(model={"id": f"{folder}/model", "backend": backend}), ledger)
    assert ledger.status(made.job).queue == backend


def test_another_spec_on_that_output_is_refused(spec, ledger):
    first = submit(spec(), ledger)
    with pytest.raises(OutputTakenError, match=first.job):
        submit(spec(shards={"rows": 60}), ledger)


def test_a_queue_that_forgot_the_job_learns_of_it(spec, ledger, wipe):
    made = submit(spec(), ledger)
    wipe()
    assert not submit(spec(), ledger).created
    assert ledger.status(made.job).shards_pending == 4


@pytest.mark.parametrize("again", ["submit", "recover"])
def test_a_forgotten_optimum_job_comes_back_into_its_queue(again, spec, ledger, folder, wipe):
    optimum = spec(model={"id": f"{folder}/model", "backend": "optimum"})
    made = submit(optimum, ledger)
    wipe()
    if again == "submit":
        submit(optimum, ledger)
    else:
        recover(optimum.output.path, ledger)
    assert ledger.status(made.job).queue == "optimum"


def test_a_submission_cut_short_before_the_queue_is_completed(spec, ledger, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "register", _killed)
        with pytest.raises(KeyboardInterrupt):
            submit(spec(), ledger)
    made = submit(spec(), ledger)
    assert not made.created
    assert ledger.status(made.job).shards_pending == 4


def _killed(*_args, **_options):
    raise KeyboardInterrupt


def test_many_submissions_at_once_make_one_job(spec, server, env):
    barrier, made, failures = threading.Barrier(6), [], []

    def run() -> None:
        with redis.Redis(unix_socket_path=f"{server.folder}/s", decode_responses=True) as client:
            barrier.wait()
            try:
                made.append(submit(spec(), Ledger(client, env)))
            except Exception as error:  # noqa: BLE001
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len({one.job for one in made}) == 1
    assert sum(one.created for one in made) == 1


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda folder: os.utime(folder / "in" / "a.parquet", ns=(1, 1)), "a.parquet has changed"),
        (lambda folder: (folder / "in" / "b.parquet").unlink(), "b.parquet is gone"),
        (lambda folder: (folder / "in" / "a.parquet").unlink(), "a.parquet is gone"),
        (lambda folder: (folder / "in" / "c.parquet").write_bytes(b"x"), "c.parquet was added"),
        (lambda folder: (folder / "in" / "aa.parquet").write_bytes(b"x"), "aa.parquet was added"),
    ],
)
def test_a_changed_input_is_refused(spec, ledger, folder, change, difference):
    submit(spec(), ledger)
    change(folder)
    with pytest.raises(InputReplacedError, match=difference):
        submit(spec(), ledger)


def test_files_behind_the_limit_do_not_matter(spec, ledger, folder):
    limited = spec(input={"path": f"{folder}/in", "limit": 100})
    submit(limited, ledger)
    (folder / "in" / "b.parquet").unlink()
    assert not submit(limited, ledger).created


def test_an_unreachable_broker_leaves_nothing_behind(spec, folder):
    nowhere = redis.Redis(unix_socket_path=f"{folder}/no-server", decode_responses=True)
    with nowhere as client, pytest.raises(BrokerUnreachableError):
        submit(spec(), Ledger(client, "test"))
    assert not (folder / "out").exists()


@pytest.mark.parametrize("state", JobState)
def test_a_job_whose_output_was_deleted_starts_over(state, spec, ledger, folder, caplog):
    made = submit(spec(), ledger)
    zombie = ledger.claim("w", ("default",))
    ledger.set_state(made.job, state)
    shutil.rmtree(folder / "out")
    pq.write_table(pa.table({"text": ["x"] * 150}), folder / "in" / "a.parquet")
    again = submit(spec(), ledger)
    assert again.created
    assert again.job == made.job
    status = ledger.status(made.job)
    assert (status.state, status.shards, status.shards_pending, status.shards_done) == (JobState.RUNNING, 5, 5, 0)
    assert ledger.beat(zombie) is BeatReply.LOST
    assert cached_record(f"{folder}/out", made.job) == again.record
    assert "starts over" in caplog.text


def test_a_submission_cut_short_while_starting_over_is_completed(spec, ledger, folder, monkeypatch):
    made = submit(spec(), ledger)
    ledger.set_state(made.job, JobState.DONE)
    shutil.rmtree(folder / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "register", _killed)
        with pytest.raises(KeyboardInterrupt):
            submit(spec(), ledger)
    submit(spec(), ledger)
    assert (ledger.status(made.job).state, ledger.status(made.job).shards_pending) == (JobState.RUNNING, 4)


def test_a_slow_start_over_leaves_that_of_another_alone(spec, ledger, folder, monkeypatch):
    made = submit(spec(), ledger)
    shutil.rmtree(folder / "out")
    require_rendering, claims = preparing.require_rendering, []

    def overtaken(record):
        require_rendering(record)
        monkeypatch.setattr(preparing, "require_rendering", require_rendering)
        assert submit(spec(), ledger).created
        claims.append(ledger.claim("w", ("default",)))

    monkeypatch.setattr(preparing, "require_rendering", overtaken)
    assert not submit(spec(), ledger).created
    assert ledger.beat(claims[0]) is BeatReply.OK
    assert ledger.status(made.job).shards_pending == 3


def test_many_start_over_at_once(spec, ledger, folder, server, env):
    made = submit(spec(), ledger)
    ledger.set_state(made.job, JobState.DONE)
    shutil.rmtree(folder / "out")
    test_many_submissions_at_once_make_one_job(spec, server, env)
    status = ledger.status(made.job)
    assert (status.state, status.shards_pending) == (JobState.RUNNING, 4)


def announce(ledger: Ledger, worker: str, offers: tuple[str, ...] | None) -> None:
    ledger.roster.announce(worker, host="h", device="cpu", queues=["default"], shards_in_flight=2, offers=offers)


def test_what_no_living_worker_can_run_waits_and_says_which_worker_to_start(spec, ledger, folder, server, caplog):
    wanted = spec(model={"id": f"{folder}/model", "quantization": "nf4"})
    announce(ledger, "plain", ("torch", "transformers", "accelerate"))
    made = submit(wanted, ledger, broker_url=server.url)
    assert made.created
    assert "plain lacks bitsandbytes" in caplog.text and "pip install 'parquetry[gpu,torch]'" in caplog.text
    # the worker that lacks something is given none of it
    assert ledger.claim("plain", ("default",)) is None
    phase = job_phase(ledger.status(made.job), ledger.workers())
    assert phase.phase is JobPhase.STALLED and "parquetry[gpu,torch]" in phase.reason
    announce(ledger, "any", None)
    assert ledger.claim("any", ("default",)).job == made.job


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_job_without_a_part_leaves_its_folder_to_a_corrected_one(spec, ledger, folder, server, state):
    first = submit(spec(), ledger, broker_url=server.url)
    claim = ledger.claim("w", ("default",))
    ledger.set_state(first.job, state) if state is JobState.CANCELLED else ledger.stop(claim, "no")
    second = submit(spec(shards={"rows": 25}), ledger, broker_url=server.url)
    assert second.created and second.job != first.job
    # whoever still runs the other one publishes nothing
    assert ledger.prepare(claim) is PrepareReply.LOST
    assert ledger.job_names() == [second.job]


def test_a_job_with_a_part_keeps_its_folder(spec, ledger, folder, server):
    first = submit(spec(), ledger, broker_url=server.url)
    (folder / "out" / "part-00000000.parquet").write_bytes(b"x")
    ledger.stop(ledger.claim("w", ("default",)), "no")
    with pytest.raises(OutputTakenError, match=first.job):
        submit(spec(shards={"rows": 25}), ledger, broker_url=server.url)
    assert ledger.job_names() == [first.job]


def test_purge_forgets_what_has_ended_and_frees_a_folder_without_a_part(spec, ledger, folder, server):
    first = submit(spec(), ledger, broker_url=server.url)
    with pytest.raises(IllegalTransitionError, match="cancel it first"):
        purge(ledger, first.job)
    ledger.set_state(first.job, JobState.CANCELLED)
    assert purge_older(ledger, 3600.0) == []
    purge(ledger, first.job)
    assert ledger.job_names() == [] and not (folder / "out" / "_job.json").exists()

    second = submit(spec(shards={"rows": 25}), ledger, broker_url=server.url)
    ledger.adopt(second.job, make_part(0, rows=25))
    ledger.set_state(second.job, JobState.CANCELLED)
    assert purge_older(ledger, 0.0) == [second.job]
    assert (folder / "out" / "_job.json").exists()
