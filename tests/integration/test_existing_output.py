"""A folder that holds a job already: refused, extended or overwritten, against a real server and a real engine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from parquetry.producers.output.output_use import in_use
from parquetry.producers.submission import submit
from parquetry.schemas.errors import (
    CannotExtendError,
    InputReplacedError,
    JobStillRunsError,
    OtherJobHereError,
    ParquetryError,
    TemplateError,
)
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.storage.local import LocalStorage
from parquetry.schemas.storage.local_replacement import LocalReplacement
from parquetry.tasks import finalize as ending
from parquetry.tasks.finalize import finalize
from parquetry.tasks.ledger.claim import BeatReply
from parquetry.tasks.ledger.digests import Digests
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.recovery import recover
from parquetry.tasks.shard.outcome import run_claim
from parquetry.tasks.shard.worker_config import WorkerConfig
from parquetry.workers.process.supervisor import EngineSupervisor
from tests.chaos.input_table import digits
from tests.integration.echo_device import echo_device, worker_on
from tests.integration.echo_jobs import EchoJobs, work

TWICE = {"template": "{{ text }} {{ text }}", "chat": False}


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory) -> Iterator[EngineSupervisor]:
    with echo_device(tmp_path_factory.mktemp("device"), CHAOS_MS_PER_ROW="0") as supervisor:
        yield supervisor


@pytest.fixture
def config(supervisor: EngineSupervisor, server, env: str) -> WorkerConfig:
    return worker_on(supervisor, server.url, env)


@pytest.fixture
def jobs(tmp_path) -> EchoJobs:
    """One file `m` of 35 rows."""
    made = EchoJobs(tmp_path)
    made.write("m", range(35))
    return made


def texts(*ranges: range) -> list[str]:
    return [digits(number) for numbers in ranges for number in numbers]


def stamps(jobs: EchoJobs) -> dict[str, int]:
    return {part.name: part.stat().st_mtime_ns for part in jobs.parts()}


# refused


def test_the_refusal_tells_what_differs_and_the_ways_on(jobs, ledger):
    first = submit(jobs.spec(), ledger)
    with pytest.raises(OtherJobHereError) as refused:
        submit(jobs.spec(input=jobs.input(limit=20), generation={"max_new_tokens": 8}), ledger)
    said = str(refused.value)
    assert first.job in said
    assert "input.limit (null there, 20 here), generation.max_new_tokens (16 there, 8 here)" in said
    assert "another output.path" in said and "output.on_existing=overwrite" in said
    assert "extend, which keeps the rows that are there and so cannot change input.limit, generation" in said


def test_a_larger_limit_is_told_that_it_can_extend(jobs, ledger):
    submit(jobs.spec(input=jobs.input(limit=20)), ledger)
    with pytest.raises(OtherJobHereError, match="extend, which keeps the rows that are there and computes those that"):
        submit(jobs.spec(), ledger)


def test_what_only_says_how_a_job_is_submitted_makes_no_other_job(jobs, ledger):
    first = submit(jobs.spec(), ledger)
    for way in ("extend", "overwrite"):
        again = submit(jobs.spec(way, priority=1), ledger)
        assert (again.job, again.created) == (first.job, False)


# extended


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_larger_limit_keeps_the_rows_that_are_there(forgotten, jobs, ledger, config, wipe):
    first = submit(jobs.spec(input=jobs.input(limit=15)), ledger)
    assert work(ledger, config) == 2
    jobs.assert_whole(texts(range(15)))
    before = stamps(jobs)
    if forgotten:
        wipe()

    longer = submit(jobs.spec("extend", input=jobs.input(limit=33)), ledger)

    assert (longer.job, longer.created, longer.rows_added) == (first.job, False, 18)
    assert longer.record.shard_plan.bounds == (0, 10, 15, 25, 33)
    assert not (jobs.output / "_SUCCESS").exists()
    status = ledger.status(first.job)
    assert (status.state, status.shards_pending, status.shards_done, status.rows) == (JobState.RUNNING, 2, 2, 33)
    assert work(ledger, config) == 2
    jobs.assert_whole(texts(range(33)))
    assert before.items() <= stamps(jobs).items()
    assert ledger.status(first.job).state is JobState.DONE
    assert (ledger.status(first.job).rows_done, len(ledger.committed(first.job))) == (33, 4)


def test_new_files_follow_wherever_their_names_would_put_them(jobs, ledger, config):
    first = submit(jobs.spec(), ledger)
    work(ledger, config)
    jobs.write("a", range(100, 112))
    jobs.write("z", range(200, 203))
    with pytest.raises(InputReplacedError, match=r"a\.parquet was added.*on_existing: extend"):
        submit(jobs.spec(), ledger)

    assert submit(jobs.spec("extend"), ledger).job == first.job
    work(ledger, config)

    expected = texts(range(35), range(100, 112), range(200, 203))
    jobs.assert_whole(expected)
    assert not submit(jobs.spec(), ledger).created
    jobs.write("b", range(300, 301))
    submit(jobs.spec("extend"), ledger)
    work(ledger, config)
    jobs.assert_whole([*expected, digits(300)])


def test_a_running_job_keeps_its_leases(jobs, ledger, config):
    submit(jobs.spec(input=jobs.input(limit=15)), ledger)
    held = ledger.claim("w", ["default"])
    submit(jobs.spec("extend"), ledger)
    assert ledger.beat(held) is BeatReply.OK
    run_claim(ledger, held, config)
    assert work(ledger, config) == 3
    jobs.assert_whole(texts(range(35)))


def test_a_part_that_a_worker_of_the_shorter_job_publishes_late_is_adopted(jobs, ledger, config, wipe):
    submit(jobs.spec(input=jobs.input(limit=15)), ledger)
    held = ledger.claim("w", ["default"])
    # the broker is lost, and the worker goes on with the shard as it was
    wipe()
    submit(jobs.spec("extend"), ledger)
    run_claim(ledger, held, config)
    work(ledger, config)
    jobs.assert_whole(texts(range(35)))


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED, JobState.PAUSED])
def test_a_job_that_stopped_half_way_is_extended(state, jobs, ledger, config):
    job = submit(jobs.spec(input=jobs.input(limit=25)), ledger).job
    run_claim(ledger, ledger.claim("w", ["default"]), config)
    ledger.set_state(job, state)
    submit(jobs.spec("extend"), ledger)
    assert ledger.status(job).state is (JobState.PAUSED if state is JobState.PAUSED else JobState.RUNNING)
    ledger.set_state(job, JobState.RUNNING)
    work(ledger, config)
    jobs.assert_whole(texts(range(35)))


def test_a_limit_beyond_the_end_adds_nothing_and_ends_nothing(jobs, ledger, config):
    job = submit(jobs.spec(), ledger).job
    work(ledger, config)
    assert submit(jobs.spec("extend", input=jobs.input(limit=1000)), ledger).job == job
    assert ledger.status(job).state is JobState.DONE
    jobs.assert_whole(texts(range(35)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": TWICE}, r"prompt\.template \(.* there, .* here\)"),
        ({"generation": {"max_new_tokens": 8, "seed": 1}}, r"generation\.max_new_tokens .*, generation\.seed "),
        ({"model": {"id": "MODEL", "quantization": "int8"}}, r"model\.quantization \(\"none\" there, \"int8\" here\)"),
        ({"input": {"path": "IN", "limit": 10}}, r"input\.limit \(20 there, 10 here\)"),
        ({"output": {"path": "OUT", "keep": ["id"], "on_existing": "extend"}}, r"output\.keep \(null there"),
    ],
)
def test_what_would_change_rows_that_are_there_is_refused_by_name(change, reason, jobs, ledger):
    submit(jobs.spec(input=jobs.input(limit=20)), ledger)
    real = {"MODEL": str(jobs.model), "IN": f"{jobs.folder}/in", "OUT": str(jobs.output)}
    change = {
        key: {k: real.get(v, v) if isinstance(v, str) else v for k, v in section.items()}
        for key, section in change.items()
    }
    before = (jobs.output / "_job.json").read_bytes()
    with pytest.raises(CannotExtendError, match=reason):
        submit(jobs.spec("extend", **({"input": jobs.input(limit=30)} | change)), ledger)
    assert (jobs.output / "_job.json").read_bytes() == before


def _other_columns(jobs: EchoJobs) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1.5], "text": ["1"]}), jobs.folder / "in" / "z.parquet")


def _other_weights(jobs: EchoJobs) -> None:
    weights = jobs.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda jobs: jobs.write("m", range(36)), "m.parquet has changed"),
        (lambda jobs: (jobs.folder / "in" / "m.parquet").rename(jobs.folder / "in" / "n.parquet"), "m.parquet is gone"),
        (_other_columns, "id was int64 and is double"),
        (_other_weights, "the weights in .*model are others now"),
    ],
)
def test_what_lies_under_rows_that_are_there_must_be_as_it_was(change, reason, jobs, ledger, config):
    submit(jobs.spec(input=jobs.input(limit=20)), ledger)
    work(ledger, config)
    jobs.write("y", range(3))
    change(jobs)
    with pytest.raises(CannotExtendError, match=reason):
        submit(jobs.spec("extend"), ledger)


# overwritten


def test_another_job_takes_the_folder_and_nothing_of_the_old_one_stays(jobs, ledger, config):
    old = submit(jobs.spec(), ledger).job
    work(ledger, config)
    (jobs.output / "notes.txt").write_text("mine")
    made = submit(jobs.spec("overwrite", prompt=TWICE, shards={"rows": 20}), ledger)
    assert made.created
    assert [found.job for found in ledger.jobs()] == [made.job] != [old]
    assert sorted(path.name for path in jobs.output.iterdir()) == ["_attempts", "_job.json", "notes.txt"]
    work(ledger, config)
    jobs.assert_whole(texts(range(35)), twice=True)
    # and back: parts of three jobs that shared a folder can be told apart
    back = submit(jobs.spec("overwrite"), ledger)
    assert len({old, made.job, back.job}) == 3
    work(ledger, config)
    jobs.assert_whole(texts(range(35)))


def test_a_changed_input_is_computed_anew(jobs, ledger, config):
    submit(jobs.spec(), ledger)
    work(ledger, config)
    jobs.write("m", range(50, 62))
    submit(jobs.spec("overwrite"), ledger)
    work(ledger, config)
    jobs.assert_whole(texts(range(50, 62)))


def test_a_job_that_runs_is_not_overwritten(jobs, ledger, config):
    job = submit(jobs.spec(), ledger).job
    other = jobs.spec("overwrite", prompt=TWICE)
    run_claim(ledger, ledger.claim("w", ["default"]), config)
    held = ledger.claim("w", ["default"])
    with pytest.raises(JobStillRunsError, match=f"which is running: .*parquetry cancel {job}"):
        submit(other, ledger)
    ledger.set_state(job, JobState.CANCELLED)
    with pytest.raises(JobStillRunsError, match="1 of its shards are still with workers"):
        submit(other, ledger)
    ledger.release(held)
    with in_use(Location.parse(str(jobs.output))), pytest.raises(JobStillRunsError, match="run by `parquetry run`"):
        submit(other, ledger)
    submit(other, ledger)
    work(ledger, config)
    jobs.assert_whole(texts(range(35)), twice=True)


def test_an_unsound_job_costs_the_old_one_nothing(jobs, ledger, config):
    submit(jobs.spec(), ledger)
    work(ledger, config)
    before = {path.name: path.read_bytes() for path in jobs.output.iterdir() if path.is_file()}
    with pytest.raises(TemplateError):
        submit(jobs.spec("overwrite", prompt={"template": "{{ 1 / 0 }}{{ text }}", "chat": False}), ledger)
    assert {path.name: path.read_bytes() for path in jobs.output.iterdir() if path.is_file()} == before
    jobs.assert_whole(texts(range(35)))


# faults


class Cut(BaseException):
    """A process that ends here."""


@pytest.fixture
def cut(monkeypatch) -> Callable[[int], None]:
    """Every write to storage or ledger counts two steps, before it and after it; the process ends at one of them."""
    steps = {"left": -1}

    def step() -> None:
        steps["left"] -= 1
        if steps["left"] == 0:
            raise Cut

    def cutting(write: Callable) -> Callable:
        def write_or_end(*args: object, **options: object) -> object:
            step()
            done = write(*args, **options)
            step()
            return done

        return write_or_end

    writes = {
        LocalStorage: ("put", "put_if_absent", "delete", "discard_attempts"),
        LocalReplacement: ("shut_others", "replace"),
        Ledger: ("register", "extend", "remove", "set_state"),
        Digests: ("put",),
    }
    for owner, names in writes.items():
        for name in names:
            monkeypatch.setattr(owner, name, cutting(getattr(owner, name)))
    return lambda after: steps.update(left=after)


@pytest.mark.parametrize("again", ["submit", "recover", "work", "wipe"])
@pytest.mark.parametrize(("way", "is_finished"), [("extend", True), ("extend", False), ("overwrite", True)])
def test_a_crash_at_any_step_loses_and_doubles_nothing(way, again, is_finished, jobs, ledger, config, wipe, cut):
    """The steps are as many as there are; then the same command, recovery, or only workers bring the job to its end."""
    first = jobs.spec(input=jobs.input(limit=15))
    second = jobs.spec("extend") if way == "extend" else jobs.spec("overwrite", prompt=TWICE)
    for after in range(1, 40):
        shutil.rmtree(jobs.output, ignore_errors=True)
        wipe()
        old = submit(first, ledger).job
        if is_finished:
            work(ledger, config)
        else:
            run_claim(ledger, ledger.claim("w", ["default"]), config)
            if way == "overwrite":
                ledger.set_state(old, JobState.CANCELLED)
        cut(after)
        try:
            submit(second, ledger)
        except Cut:
            pass
        else:
            assert after > 5
            break
        finally:
            cut(-1)
        if again == "wipe":
            wipe()
        if again == "recover":
            recover(str(jobs.output), ledger)
        if again == "work":
            # an output that is whole before and after is never taken for a whole one in between
            work(ledger, config)
        submit(second, ledger)
        work(ledger, config)
        jobs.assert_whole(texts(range(35)), twice=way == "overwrite")
    else:
        raise AssertionError("it has more steps than that")


def test_workers_alone_complete_an_extension_that_was_cut_short(jobs, ledger, config, cut):
    job = submit(jobs.spec(input=jobs.input(limit=15)), ledger).job
    # as soon as the record is replaced
    cut(4)
    with pytest.raises(Cut):
        submit(jobs.spec("extend"), ledger)
    cut(-1)
    assert ledger.status(job).shards == 2
    work(ledger, config)
    jobs.assert_whole(texts(range(35)))
    assert ledger.status(job).state is JobState.DONE


def test_whoever_slept_while_ending_the_shorter_job_does_not_end_the_longer_one(
    jobs, ledger, config, monkeypatch, client, keys
):
    job = submit(jobs.spec(input=jobs.input(limit=15)), ledger).job
    publish = ending.publish_manifest

    def published_late(*args: object) -> bool:
        monkeypatch.setattr(ending, "publish_manifest", publish)
        assert publish(*args)
        client.delete(keys.lock(f"finalize:{job}"))
        submit(jobs.spec("extend"), ledger)
        # what it writes when it wakes: the end of a job that goes on
        (jobs.output / "_SUCCESS").touch()
        return True

    monkeypatch.setattr(ending, "publish_manifest", published_late)
    run_claim(ledger, ledger.claim("w", ["default"]), config)
    with pytest.raises(ParquetryError, match="is running, so it cannot be done"):
        run_claim(ledger, ledger.claim("w", ["default"]), config)
    assert not (jobs.output / "_SUCCESS").exists()
    assert ledger.status(job).state is JobState.RUNNING
    work(ledger, config)
    jobs.assert_whole(texts(range(35)))
    assert finalize(ledger, job) is JobState.DONE


@pytest.mark.parametrize("is_finished", [True, False])
def test_many_extend_at_once(is_finished, jobs, ledger, config, server, env):
    """Those that are behind are refused; the longest wins, and every row is there once."""
    submit(jobs.spec(input=jobs.input(limit=5)), ledger)
    if is_finished:
        work(ledger, config)
    refused = _at_once(
        server, env, [jobs.spec("extend", input=jobs.input(limit=limit)) for limit in (9, 16, 16, 21, 28, 35)]
    )
    assert [error for error in refused if not isinstance(error, CannotExtendError)] == []
    work(ledger, config)
    jobs.assert_whole(texts(range(35)))


def test_many_overwrite_at_once(jobs, ledger, config, server, env):
    submit(jobs.spec(input=jobs.input(limit=15)), ledger)
    work(ledger, config)
    assert _at_once(server, env, [jobs.spec("overwrite", prompt=TWICE)] * 6) == []
    assert len(ledger.jobs()) == 1
    work(ledger, config)
    jobs.assert_whole(texts(range(35)), twice=True)


def _at_once(server, env, specs) -> list[ParquetryError]:
    barrier, refused = threading.Barrier(len(specs)), []

    def run(spec) -> None:
        with redis.Redis(unix_socket_path=f"{server.folder}/s", decode_responses=True) as client:
            barrier.wait()
            try:
                submit(spec, Ledger(client, env))
            except ParquetryError as error:
                refused.append(error)

    threads = [threading.Thread(target=run, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return refused
