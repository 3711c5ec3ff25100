"""One shard at a time through the real runner: engine process, storage and server are real."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from parquetry.schemas.errors import EngineRefusedError
from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, Manifest
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import load_settings
from parquetry.schemas.shard import part_name
from parquetry.tasks import failpoints
from parquetry.tasks.ledger.claim import Claim, ReleaseReply
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from parquetry.tasks.shard import outcome
from parquetry.tasks.shard.outcome import run_claim, settle
from parquetry.tasks.shard.worker_config import WorkerConfig
from parquetry.workers.process.supervisor import EngineSupervisor
from tests.chaos.checker import check
from tests.chaos.process import wait_until
from tests.integration.echo_device import echo_device, worker_on
from tests.integration.jobs_on_disk import DiskJob, make_job

QUEUES = ("default",)
STEPS = sorted(re.findall(r'failpoint\("(\w+)"\)', "".join(p.read_text() for p in Path("tasks").rglob("*.py"))))
#: those a single shard passes on its way, each of them once or more
ON_THE_WAY = [
    "started", "not_found", "attempt", "engine", "progress", "computed", "verified", "prepare", "prepared",
    "published", "commit", "committed", "discard", "claimed",
]  # fmt: skip


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory) -> Iterator[EngineSupervisor]:
    with echo_device(tmp_path_factory.mktemp("device"), PARQUETRY_ENGINE_STALL_SECONDS="2") as supervisor:
        yield supervisor


@pytest.fixture
def config(supervisor: EngineSupervisor, server, env: str) -> WorkerConfig:
    return worker_on(supervisor, server.url, env)


@pytest.fixture
def policy() -> Policy:
    """As in life: after three lost leases a shard runs in quarantine."""
    return Policy(lease_s=60.0, max_attempts=3, starvation_s=300.0)


@pytest.fixture
def no_engine(config: WorkerConfig) -> WorkerConfig:
    """A worker for whom any work on the GPU would fail."""
    return WorkerConfig(**{**vars(config), "socket": Path("/nowhere/supervisor.sock")})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """One folder for all, so that the engine stays loaded."""
    return tmp_path_factory.mktemp("model")


@pytest.fixture(autouse=True)
def no_rest(monkeypatch) -> None:
    monkeypatch.setattr(outcome, "FIRST_REST_S", 0.0)


@pytest.fixture
def arm(monkeypatch, tmp_path):
    """Set failpoints for the processes of this test."""

    def arm(text: str) -> None:
        config = load_settings(failpoints=text, state_dir=tmp_path / "state")
        monkeypatch.setattr(failpoints, "settings", lambda: config)

    return arm


def run_one(ledger: Ledger, config: WorkerConfig) -> Claim | None:
    claim = ledger.claim(config.worker, QUEUES)
    if claim is not None:
        run_claim(ledger, claim, config)
    return claim


def run_all(ledger: Ledger, config: WorkerConfig, limit: int = 30) -> int:
    """Claim and run until there is nothing left; how many claims it took."""
    for count in range(limit):
        if run_one(ledger, config) is None:
            return count
    raise AssertionError(f"still not over after {limit} claims")


def assert_whole(job: DiskJob, ledger: Ledger) -> None:
    """The invariants, by the checker that knows nothing of us, and the ledger's own count."""
    assert ledger.status(job.name).state is JobState.DONE
    assert check(Path(job.storage.root.path), job.table).violations == []
    status = ledger.status(job.name)
    assert status.shards_done == len(ledger.committed(job.name)) == len(job.parts())


def test_job_ends_done_with_manifest_and_success(tmp_path, model, ledger: Ledger, config: WorkerConfig):
    job = make_job(tmp_path, ledger, model=model)
    assert run_all(ledger, config) == 3
    assert_whole(job, ledger)
    status = ledger.status(job.name)
    assert (status.rows_done, status.error_rows, status.retries) == (30, 0, 0)
    assert status.prompt_tokens == status.output_tokens > 0
    assert not (tmp_path / "out" / "_attempts").exists()


def test_published_but_unreported_part_is_adopted_without_an_engine(tmp_path, model, ledger, config, no_engine, arm):
    job = make_job(tmp_path, ledger, model=model, rows=10)
    arm("published:raise")
    run_one(ledger, config)
    assert (job.parts(), ledger.status(job.name).shards_done) == ([part_name(0)], 0)
    written = (tmp_path / "out" / part_name(0)).stat().st_mtime_ns
    run_one(ledger, no_engine)
    assert (tmp_path / "out" / part_name(0)).stat().st_mtime_ns == written
    assert_whole(job, ledger)
    assert ledger.status(job.name).prompt_tokens > 0


@pytest.mark.parametrize("step", ON_THE_WAY)
def test_fault_at_any_step_costs_one_attempt_and_no_row(step: str, tmp_path, model, ledger, config, arm):
    assert step in STEPS
    job = make_job(tmp_path, ledger, model=model, rows=20)
    arm(f"{step}:raise")
    if step == "claimed":
        with pytest.raises(failpoints.FailpointError):
            run_one(ledger, config)
        ledger.release(ledger.holdings("w")[0])
    run_all(ledger, config)
    assert_whole(job, ledger)


@pytest.mark.parametrize("step", ["manifest", "success", "attempts", "last"])
def test_finalizer_that_dies_is_followed_by_another(step: str, tmp_path, model, ledger, config, arm):
    job = make_job(tmp_path, ledger, model=model, rows=10)
    arm(f"{step}:raise")
    with pytest.raises(failpoints.FailpointError):
        run_one(ledger, config)
    assert ledger.status(job.name).state is JobState.RUNNING
    outcome.finalize(ledger, job.name)
    assert_whole(job, ledger)


def test_zombie_that_wakes_after_its_heir_changes_nothing(tmp_path, model, ledger, config, client, keys):
    job = make_job(tmp_path, ledger, model=model, rows=20)
    zombie = ledger.claim("zombie", QUEUES)
    client.zadd(keys.of_job(job.name, "lease"), {str(zombie.shard): 0})
    ledger.reap(job.name)
    run_all(ledger, config)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    run_claim(ledger, zombie, config)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
    assert_whole(job, ledger)


def test_lease_lost_while_publishing_ends_in_adoption(tmp_path, model, ledger, config, monkeypatch, client, keys):
    """The zombie's part is first under the final name: it counts, and the heir's work is not written."""
    job = make_job(tmp_path, ledger, model=model, rows=10)
    claim = ledger.claim("w", QUEUES)

    def steal(name: str) -> None:
        if name == "published":
            client.hset(keys.of_job(job.name, "tok"), "0", "99:heir")

    monkeypatch.setattr("parquetry.tasks.shard.shard_runner.failpoint", steal)
    run_claim(ledger, claim, config)
    assert_whole(job, ledger)


def test_lease_lost_before_publishing_publishes_nothing(tmp_path, model, ledger, config, monkeypatch, client, keys):
    job = make_job(tmp_path, ledger, model=model, rows=10)
    claim = ledger.claim("w", QUEUES)

    def steal(name: str) -> None:
        if name == "verified":
            client.hset(keys.of_job(job.name, "tok"), "0", "99:heir")

    monkeypatch.setattr("parquetry.tasks.shard.shard_runner.failpoint", steal)
    run_claim(ledger, claim, config)
    assert job.parts() == []


def test_changed_attempt_never_gets_the_final_name(tmp_path, model, ledger, config, monkeypatch):
    job = make_job(tmp_path, ledger, model=model, rows=10)

    def flip(name: str) -> None:
        if name == "computed":
            attempt = next((tmp_path / "out" / "_attempts").iterdir())
            data = bytearray(attempt.read_bytes())
            data[100] ^= 1
            attempt.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("parquetry.tasks.shard.shard_runner.failpoint", flip)
        run_one(ledger, config)
    assert job.parts() == []
    assert ledger.status(job.name).retries == 1
    run_all(ledger, config)
    assert_whole(job, ledger)


def test_foreign_file_under_a_final_name_fails_the_shard(tmp_path, model, ledger, config):
    job = make_job(tmp_path, ledger, model=model, rows=20)
    job.storage.put(part_name(0), b"not a part")
    run_all(ledger, config)
    status = ledger.status(job.name)
    assert (status.state, status.shards_done) == (JobState.FAILED, 1)
    assert part_name(0) in status.failures[0].reason
    assert job.storage.head(SUCCESS_FILE) is None


def test_failed_job_is_retried_and_done(tmp_path, model, ledger, config):
    job = make_job(tmp_path, ledger, model=model, rows=20)
    job.storage.put(part_name(0), b"not a part")
    run_all(ledger, config)
    job.storage.delete(part_name(0))
    assert ledger.retry(job.name) == 1
    run_all(ledger, config)
    assert_whole(job, ledger)


def test_changed_input_fails_the_shard_with_the_file(tmp_path, model, ledger, config):
    job = make_job(tmp_path, ledger, model=model, rows=10)
    job.table.write_bytes(job.table.read_bytes() + b"x")
    run_one(ledger, config)
    status = ledger.status(job.name)
    assert status.state is JobState.FAILED
    assert "in.parquet" in status.failures[0].reason


@pytest.mark.parametrize("spell", ["KILL", "SEGV", "HANG"])
def test_engine_that_dies_once_costs_one_attempt(spell: str, tmp_path, ledger, config, monkeypatch):
    job = make_job(tmp_path, ledger, rows=10, spells={4: spell})
    monkeypatch.setenv("CHAOS_LOG", str(tmp_path / "log"))
    run_all(ledger, config)
    assert_whole(job, ledger)
    assert ledger.status(job.name).retries == 1


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.PAUSED])
def test_a_stopped_job_gets_its_running_shard_back(tmp_path, ledger, config, monkeypatch, state):
    monkeypatch.setenv("CHAOS_MS_PER_ROW", "50")
    job = make_job(tmp_path, ledger, rows=400, rows_per_shard=400)
    claim = ledger.claim("w", QUEUES)
    thread = threading.Thread(target=run_claim, args=(ledger, claim, config))
    thread.start()
    while not ledger.status(job.name).running_rows:
        time.sleep(0.05)
    ledger.set_state(job.name, state)
    thread.join(timeout=10)
    assert not thread.is_alive()
    status = ledger.status(job.name)
    assert (status.shards_running, status.shards_pending, status.retries) == (0, 1, 0)
    assert job.parts() == []


def test_two_at_once_write_one_part(tmp_path, model, ledger, config, client, keys):
    job = make_job(tmp_path, ledger, model=model, rows=10)
    first = ledger.claim("w", QUEUES)
    client.zadd(keys.of_job(job.name, "lease"), {"0": 0})
    ledger.reap(job.name)
    second = ledger.claim("w", QUEUES)
    threads = [threading.Thread(target=run_claim, args=(ledger, claim, config)) for claim in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_whole(job, ledger)


def test_model_folder_that_vanished_is_told(tmp_path, ledger, config):
    job = make_job(tmp_path, ledger, rows=10)
    shutil.rmtree(tmp_path / "model")
    run_all(ledger, config)
    status = ledger.status(job.name)
    assert status.state is JobState.FAILED
    assert "model" in status.failures[0].reason


def test_manifest_agrees_with_the_files(tmp_path, model, ledger, config):
    job = make_job(tmp_path, ledger, model=model)
    run_all(ledger, config)
    manifest = Manifest.model_validate_json(job.storage.read(MANIFEST_FILE))
    entries = {entry.path: entry for entry in job.storage.list("part-")}
    assert [part.path for part in manifest.parts] == sorted(entries)
    assert all(entries[part.path].etag == part.etag for part in manifest.parts)
    assert all(entries[part.path].size == part.size for part in manifest.parts)


def test_row_that_kills_every_engine_becomes_an_error_row(tmp_path, ledger: Ledger, config: WorkerConfig):
    """Its neighbours, in its shard and in others, get their output."""
    job = make_job(tmp_path, ledger, rows=40, rows_per_shard=20, spells={7: "POISON", 12: "POISON"})
    assert run_all(ledger, config) == 2 + 3
    assert_whole(job, ledger)
    status = ledger.status(job.name)
    assert (status.error_rows, status.retries) == (2, 3)
    errors = job.column(part_name(0), "error")
    assert [row for row, error in enumerate(errors) if error] == [7, 12]
    assert "alone" in errors[7]


def test_neighbours_that_all_kill_their_engine_do_not_condemn_it(tmp_path, ledger: Ledger, config: WorkerConfig):
    """As when rows are sorted by length and the longest do not fit: the rest of the shard speaks for the engine."""
    job = make_job(tmp_path, ledger, rows=16, rows_per_shard=16, spells=dict.fromkeys(range(4), "POISON"))
    run_all(ledger, config)
    assert_whole(job, ledger)
    assert [row for row, error in enumerate(job.column(part_name(0), "error")) if error] == [0, 1, 2, 3]


@pytest.fixture
def impatient(ledger: Ledger) -> Ledger:
    """Bisects a shard after its first lost attempt."""
    ledger.policy = replace(ledger.policy, max_attempts=1)
    return ledger


def test_an_engine_that_fails_different_rows_for_one_reason_stops_the_job(tmp_path, impatient: Ledger, config):
    """No row is blamed and nothing is lost; whoever says that the rows are bad gets error rows."""
    job = make_job(tmp_path, impatient, rows=16, rows_per_shard=4, spells={1: "RAISE", 6: "RAISE"})
    # two in flight, as in life
    for claim in [impatient.claim("w", QUEUES) for _ in range(2)]:
        run_claim(impatient, claim, config)
    status = impatient.status(job.name)
    assert (status.state, status.shards_failed, status.shards_pending, status.error_rows) == (JobState.FAILED, 1, 3, 0)
    assert "IndexError: position" in status.failures[0].reason
    assert "retry" in status.failures[0].reason
    assert run_one(impatient, config) is None

    assert impatient.retry(job.name) == 1
    run_all(impatient, config)
    assert_whole(job, impatient)
    assert impatient.status(job.name).error_rows == 2


def test_rows_of_one_shard_for_which_the_engine_fails_stop_the_job_too(tmp_path, impatient: Ledger, config):
    job = make_job(tmp_path, impatient, rows=8, rows_per_shard=8, spells={1: "RAISE", 6: "RAISE"})
    run_all(impatient, config)
    status = impatient.status(job.name)
    assert (status.state, status.shards_failed, status.error_rows) == (JobState.FAILED, 1, 0)
    assert "IndexError: position" in status.failures[0].reason


def test_rows_that_are_explained_do_not_speak_against_the_engine(tmp_path, impatient: Ledger, config: WorkerConfig):
    """The first of them was found, and its shard committed, when the second comes."""
    job = make_job(tmp_path, impatient, rows=8, rows_per_shard=4, spells={1: "RAISE", 6: "RAISE"})
    # what is given back is claimed first, so one shard ends before the other begins
    run_all(impatient, config)
    assert_whole(job, impatient)
    assert [row for row, error in enumerate(job.column(part_name(0), "error")) if error] == [1]
    assert impatient.status(job.name).error_rows == 2


def test_a_stopped_job_gets_its_other_shards_back(tmp_path, ledger: Ledger, config: WorkerConfig, monkeypatch):
    """As soon as the lease of one is renewed, which does not cost it an attempt."""
    monkeypatch.setenv("CHAOS_MS_PER_ROW", "50")
    job = make_job(tmp_path, ledger, rows=400, rows_per_shard=200)
    running, stopping = (ledger.claim("w", QUEUES) for _ in range(2))
    thread = threading.Thread(target=run_claim, args=(ledger, running, config))
    thread.start()
    wait_until(lambda: ledger.status(job.name).running_rows > 0, 20, "progress")
    assert settle(ledger, stopping, EngineRefusedError(reason="no")) is ReleaseReply.FAILED
    thread.join(timeout=10)
    assert not thread.is_alive()
    status = ledger.status(job.name)
    assert (status.state, status.shards_running, status.shards_pending, status.retries) == (JobState.FAILED, 0, 1, 0)
    assert status.failures[0].reason == "The engine refused the job: no."
    assert settle(ledger, stopping, EngineRefusedError(reason="no")) is ReleaseReply.LOST
