"""Error rows computed anew and merged: faults at every step, zombies, two workers, cancels, lost queues."""

# fixtures are named as what they give
# ruff: noqa: F811

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from parquetry.api.job import Job
from parquetry.schemas.errors import (
    IllegalTransitionError,
    InvalidValueError,
    MissingColumnError,
    ParquetryError,
    UnknownKeyError,
)
from parquetry.schemas.manifest import MANIFEST_FILE, SUCCESS_FILE, Manifest
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import part_name
from parquetry.schemas.spec.row_retry import RowRetry, retry_file
from parquetry.tasks import failpoints
from parquetry.tasks.ledger.claim import Claim
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.rounds import ShardsHeldError
from parquetry.tasks.reconciler import Reconciler
from parquetry.tasks.recovery import recover
from parquetry.tasks.row_retry import retry_unchanged
from parquetry.tasks.shard.outcome import run_claim
from tests.chaos.checker import check
from tests.integration.jobs_on_disk import DiskJob, make_job
from tests.integration.test_runner import (
    arm,  # noqa: F401
    assert_whole,
    config,  # noqa: F401
    model,  # noqa: F401
    no_rest,  # noqa: F401
    policy,  # noqa: F401
    run_all,
    run_one,
    supervisor,  # noqa: F401
)

QUEUES = ("default",)
#: rows 7, 17 and 27 are error rows with this one, and answered with the other
FAILS, WORKS = "{{ (text if '7' not in text else 1 // 0) }}", "{{ text }}"
STEPS = sorted(
    name
    for file in ("tasks/shard/row_retry_runner.py", "tasks/row_retry.py", "tasks/shard/shard_runner.py")
    for name in re.findall(r'failpoint\("(\w+)"\)', Path(file).read_text())
)
#: those of whoever begins a retry
OF_THE_CLIENT = ("retry_opened", "retry_unmarked", "retry_noted")
#: what a shard of a retry passes
ON_THE_WAY = [
    "retry_started", "retry_gate", "retry_alone", "retry_engine", "progress", "retry_merged", "prepare",
    "retry_prepared", "retry_replaced", "commit", "committed", "claimed",
]  # fmt: skip


@pytest.fixture
def job(tmp_path: Path, ledger: Ledger, model, config) -> DiskJob:
    """A job that is done, with one error row in each of its three shards."""
    made = make_job(tmp_path, ledger, model=model, prompt={"template": FAILS, "chat": False})
    run_all(ledger, config)
    status = ledger.status(made.name)
    assert (status.state, status.error_rows, sum(status.errors.values())) == (JobState.DONE, 3, 3)
    return made


def opened(job: DiskJob, ledger: Ledger) -> Job:
    return Job(job.name, str(job.storage.root), ledger)


def retry(job: DiskJob, ledger: Ledger, template: str = WORKS) -> int:
    return opened(job, ledger).retry(rows=True, changes={"prompt.template": template}).rows


def rounds_of(job: DiskJob, shard: int) -> list[dict]:
    with job.storage.open(part_name(shard)) as file:
        keys = pq.ParquetFile(file).metadata.metadata
    return json.loads(keys.get(b"parquetry.row_rounds", b"[]"))


def contents(job: DiskJob) -> dict[str, bytes]:
    return {name: job.storage.read(name) for name in job.parts()}


def assert_merged(job: DiskJob, ledger: Ledger, *, error_rows: int = 0) -> None:
    """Every row once and right, by the checker that knows nothing of us; counts as the files tell; a sound ledger."""
    assert_whole(job, ledger)
    status = ledger.status(job.name)
    assert (status.rows_done, status.error_rows, sum(status.errors.values())) == (30, error_rows, error_rows)
    manifest = Manifest.model_validate_json(job.storage.read(MANIFEST_FILE))
    assert (manifest.rows, manifest.error_rows) == (30, error_rows)
    assert not (Path(job.storage.root.path) / "_attempts").exists()


def test_error_rows_are_computed_anew_and_the_others_are_not(job, ledger, config):
    before = {name: job.column(name, "output") for name in job.parts()}
    assert retry(job, ledger) == 3
    status = ledger.status(job.name)
    assert (status.state, status.shards_pending, status.rows_done, status.error_rows) == (JobState.RUNNING, 3, 0, 0)
    assert job.storage.head(SUCCESS_FILE) is None
    # nothing is gone meanwhile
    assert job.rows() == list(range(30))
    assert run_all(ledger, config) == 3
    assert_merged(job, ledger)
    for shard, name in enumerate(job.parts()):
        now = job.column(name, "output")
        assert [i for i in range(10) if now[i] != before[name][i]] == [7]
        (told,) = rounds_of(job, shard)
        assert (told["round"], told["rows"], told["changes"]) == (1, f"{10 * shard + 7}", {"prompt.template": WORKS})
        assert set(told["provenance"]) == {"template_sha256"}


def test_a_retry_counts_its_tokens_once(job, ledger, config):
    before = ledger.status(job.name)
    retry(job, ledger)
    run_all(ledger, config)
    after = ledger.status(job.name)
    # "7", "1 7" and "2 7", echoed
    assert after.prompt_tokens - before.prompt_tokens == 5
    assert after.output_tokens - before.output_tokens == 5
    assert after.computed_output_tokens == after.output_tokens


def test_a_retry_with_the_same_settings_has_the_same_errors(job, ledger, config):
    assert opened(job, ledger).retry(rows=True).rows == 3
    run_all(ledger, config)
    assert ledger.status(job.name).state is JobState.DONE
    assert (ledger.status(job.name).error_rows, sum(ledger.status(job.name).errors.values())) == (3, 3)
    assert [len(rounds_of(job, shard)) for shard in range(3)] == [1, 1, 1]
    assert retry(job, ledger) == 3
    run_all(ledger, config)
    assert_merged(job, ledger)
    assert [told["round"] for told in rounds_of(job, 0)] == [1, 2]


def test_the_pages_retry_is_one_with_the_same_settings(job, ledger, config):
    begun = retry_unchanged(ledger, ledger.status(job.name))
    assert (begun.shards, begun.rows) == (3, 3)
    run_all(ledger, config)
    assert ledger.status(job.name).state is JobState.DONE


def test_only_shards_with_error_rows_are_touched(tmp_path, ledger, model, config):
    template = "{{ (text if text != '1 7' else 1 // 0) }}"
    job = make_job(tmp_path, ledger, model=model, prompt={"template": template, "chat": False})
    run_all(ledger, config)
    before = contents(job)
    assert retry(job, ledger) == 1
    assert run_all(ledger, config) == 1
    assert_merged(job, ledger)
    after = contents(job)
    assert [name for name in before if before[name] != after[name]] == [part_name(1)]


def test_a_job_without_error_rows_is_left_alone(job, ledger, config):
    retry(job, ledger)
    run_all(ledger, config)
    before = contents(job)
    assert retry(job, ledger) == 0
    assert ledger.status(job.name).state is JobState.DONE
    assert (contents(job), job.storage.head(SUCCESS_FILE) is not None) == (before, True)


@pytest.mark.parametrize("step", ON_THE_WAY)
def test_a_fault_at_any_step_costs_one_attempt_and_no_row(step, job, ledger, config, arm):
    assert step in STEPS or step == "claimed"
    retry(job, ledger)
    arm(f"{step}:raise")
    if step == "claimed":
        with pytest.raises(failpoints.FailpointError):
            run_one(ledger, config)
        ledger.release(ledger.holdings("w")[0])
    run_all(ledger, config)
    assert_merged(job, ledger)
    assert [len(rounds_of(job, shard)) for shard in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("step", OF_THE_CLIENT)
def test_whoever_begins_a_retry_and_dies_leaves_a_job_that_is_finished(step, job, ledger, config, arm, server):
    before = contents(job)
    arm(f"{step}:raise")
    with pytest.raises(failpoints.FailpointError):
        retry(job, ledger)
    Reconciler(ledger, server.url, 5.0).reconcile()
    assert ledger.status(job.name).state is JobState.DONE
    assert (contents(job), job.storage.head(SUCCESS_FILE) is not None) == (before, True)
    assert check(Path(job.storage.root.path), job.table).lost == 0
    assert retry(job, ledger) == 3
    run_all(ledger, config)
    assert_merged(job, ledger)


@pytest.mark.parametrize("step", OF_THE_CLIENT)
def test_whoever_begins_a_retry_and_sleeps_undoes_no_end(step, job, ledger, config, monkeypatch, client, keys, server):
    """Its lock ends, others end the job, and it goes on."""

    def sleep(name: str) -> None:
        if name == step:
            client.delete(keys.lock(f"finalize:{job.name}"))
            Reconciler(ledger, server.url, 5.0).reconcile()
            assert ledger.status(job.name).state is JobState.DONE

    monkeypatch.setattr("parquetry.tasks.row_retry.failpoint", sleep)
    with pytest.raises(ParquetryError, match="try again"):
        retry(job, ledger)
    monkeypatch.setattr("parquetry.tasks.row_retry.failpoint", lambda _: None)
    assert job.storage.head(SUCCESS_FILE) is not None
    assert Manifest.model_validate_json(job.storage.read(MANIFEST_FILE)).error_rows == 3
    assert opened(job, ledger).retry(rows=True, changes={"prompt.template": WORKS}).round == 2
    run_all(ledger, config)
    assert_merged(job, ledger)


@pytest.mark.parametrize("step", ["manifest", "success", "attempts", "last"])
def test_a_finalizer_that_dies_is_followed_by_another(step, job, ledger, config, arm, server):
    retry(job, ledger)
    arm(f"{step}:raise")
    with pytest.raises(failpoints.FailpointError):
        run_all(ledger, config)
    Reconciler(ledger, server.url, 5.0).reconcile()
    assert_merged(job, ledger)


@pytest.fixture
def overtaken(ledger, client, keys, monkeypatch) -> Callable[..., list[str]]:
    """Lets a zombie lose its lease at a step, where its heir does `meanwhile`; the list names the step once it did."""

    def arrange(step: str, job: DiskJob, zombie: Claim, meanwhile: Callable[[], None]) -> list[str]:
        reached: list[str] = []

        def stall(name: str) -> None:
            if name == step and not reached:
                reached.append(name)
                client.zadd(keys.of_job(job.name, "lease"), {str(zombie.shard): 0})
                ledger.reap(job.name)
                meanwhile()

        monkeypatch.setattr("parquetry.tasks.shard.row_retry_runner.failpoint", stall)
        return reached

    return arrange


@pytest.mark.parametrize("step", ["retry_gate", "retry_alone", "retry_engine", "retry_merged", "retry_prepared"])
def test_a_zombie_that_wakes_at_any_step_replaces_nothing(step, job, ledger, config, overtaken):
    """It stops at `step`, loses its lease, and its heir finishes the whole job before it goes on."""
    retry(job, ledger)
    zombie = ledger.claim("zombie", QUEUES)
    files: list[dict[str, bytes]] = []

    def finish() -> None:
        run_all(ledger, config)
        files.append(contents(job))

    reached = overtaken(step, job, zombie, finish)
    run_claim(ledger, zombie, config)
    assert (reached, files) == ([step], [contents(job)])
    assert_merged(job, ledger)


@pytest.mark.parametrize("step", ["retry_gate", "retry_merged", "retry_prepared"])
def test_a_zombie_of_an_earlier_round_undoes_no_later_one(step, job, ledger, config, overtaken):
    opened(job, ledger).retry(rows=True)
    zombie = ledger.claim("zombie", QUEUES)
    files: list[dict[str, bytes]] = []

    def finish_two_rounds() -> None:
        run_all(ledger, config)
        retry(job, ledger)
        run_all(ledger, config)
        files.append(contents(job))

    reached = overtaken(step, job, zombie, finish_two_rounds)
    run_claim(ledger, zombie, config)
    assert (reached, files) == ([step], [contents(job)])
    assert_merged(job, ledger)


def test_a_zombie_of_the_job_itself_does_not_count_a_part_as_retried(tmp_path, ledger, model, config, client, keys):
    job = make_job(tmp_path, ledger, model=model, prompt={"template": FAILS, "chat": False})
    zombie = ledger.claim("zombie", QUEUES)
    client.zadd(keys.of_job(job.name, "lease"), {str(zombie.shard): 0})
    ledger.reap(job.name)
    run_all(ledger, config)
    retry(job, ledger)
    run_claim(ledger, zombie, config)
    assert ledger.status(job.name).shards_done == 0
    assert run_all(ledger, config) == 3
    assert_merged(job, ledger)


def test_replaced_but_unreported_is_adopted_without_an_engine(job, ledger, config, arm):
    retry(job, ledger)
    arm("retry_replaced:raise")
    shard = run_one(ledger, config).shard
    replaced = job.storage.read(part_name(shard))
    nowhere = type(config)(**{**vars(config), "socket": Path("/nowhere/supervisor.sock")})
    while (claim := ledger.claim("w", QUEUES)).shard != shard:
        ledger.release(claim)
    run_claim(ledger, claim, nowhere)
    assert job.storage.read(part_name(shard)) == replaced
    run_all(ledger, config)
    assert_merged(job, ledger)


def test_a_retry_is_cancelled_and_goes_on(job, ledger, config):
    retry(job, ledger)
    run_one(ledger, config)
    ledger.set_state(job.name, JobState.CANCELLED)
    assert ledger.claim("w", QUEUES) is None
    # whole, but not finished
    assert job.rows() == list(range(30))
    assert job.storage.head(SUCCESS_FILE) is None
    ledger.set_state(job.name, JobState.RUNNING)
    assert run_all(ledger, config) == 2
    assert_merged(job, ledger)


def test_a_cancel_in_the_middle_of_a_shard_replaces_nothing(job, ledger, config, monkeypatch):
    retry(job, ledger)
    before = contents(job)

    def cancel(name: str) -> None:
        if name == "retry_merged":
            ledger.set_state(job.name, JobState.CANCELLED)

    monkeypatch.setattr("parquetry.tasks.shard.row_retry_runner.failpoint", cancel)
    run_one(ledger, config)
    assert contents(job) == before
    assert (ledger.status(job.name).shards_pending, ledger.status(job.name).shards_done) == (3, 0)


def test_a_cancelled_retry_may_be_begun_again_with_other_settings(job, ledger, config):
    opened(job, ledger).retry(rows=True)
    run_one(ledger, config)
    ledger.set_state(job.name, JobState.CANCELLED)
    # one is merged already and has its error again, the others are queued still
    assert retry(job, ledger) == 3
    assert run_all(ledger, config) == 3
    assert_merged(job, ledger)
    assert sorted(tuple(told["round"] for told in rounds_of(job, shard)) for shard in range(3)) == [(1, 2), (2,), (2,)]


def test_a_cancelled_retry_of_which_nothing_is_merged_may_be_begun_again(job, ledger, config):
    opened(job, ledger).retry(rows=True)
    ledger.set_state(job.name, JobState.CANCELLED)
    assert ledger.status(job.name).shards_due == 3
    assert retry(job, ledger) == 3
    assert run_all(ledger, config) == 3
    assert_merged(job, ledger)
    assert ledger.status(job.name).shards_due == 0


def test_a_retry_begun_again_by_somebody_who_dies_is_begun_once_more(job, ledger, config, arm, server):
    opened(job, ledger).retry(rows=True)
    ledger.set_state(job.name, JobState.CANCELLED)
    arm("retry_opened:raise")
    with pytest.raises(failpoints.FailpointError):
        retry(job, ledger)
    reconciler = Reconciler(ledger, server.url, 5.0)
    reconciler.reconcile()
    # the queue is in a round that the output does not tell of
    ledger.reap(job.name)
    run_all(ledger, config)
    assert job.rows() == list(range(30))
    ledger.set_state(job.name, JobState.CANCELLED)
    assert retry(job, ledger) == 3
    ledger.retry(job.name)
    run_all(ledger, config)
    assert_merged(job, ledger)


def test_a_job_that_is_being_retried_is_not_retried_by_another(job, ledger, config):
    retry(job, ledger)
    with pytest.raises(IllegalTransitionError, match="is running"):
        retry(job, ledger)
    claim = ledger.claim("w", QUEUES)
    ledger.set_state(job.name, JobState.CANCELLED)
    with pytest.raises(ShardsHeldError):
        opened(job, ledger).retry(rows=True)
    ledger.release(claim)
    ledger.set_state(job.name, JobState.RUNNING)
    run_all(ledger, config)
    assert_merged(job, ledger)


def test_two_at_once_begin_one_retry(job, ledger, config, monkeypatch):
    seen: list[ParquetryError] = []
    real = ledger.open_round

    def twice(*args, **options):
        if not seen:
            try:
                retry(job, ledger)
            except ParquetryError as error:
                seen.append(error)
        return real(*args, **options)

    monkeypatch.setattr(ledger, "open_round", twice)
    retry(job, ledger)
    assert "try again" in str(seen[0])
    assert run_all(ledger, config) == 3
    assert_merged(job, ledger)


@pytest.mark.parametrize("merged", [0, 1, 3])
def test_a_queue_that_has_lost_a_retry_goes_on_with_it(merged, job, ledger, config, wipe, server):
    retry(job, ledger)
    for _ in range(merged):
        claim = ledger.claim(config.worker, QUEUES)
        with pytest.MonkeyPatch.context() as patch:
            # the last one must not end the job
            patch.setattr("parquetry.tasks.shard.outcome.finalize", lambda *_: None)
            run_claim(ledger, claim, config)
    wipe()
    recover(str(job.storage.root), ledger)
    assert run_all(ledger, config) == 3 - merged
    assert_merged(job, ledger)
    assert [len(rounds_of(job, shard)) for shard in range(3)] == [1, 1, 1]


def test_a_queue_that_has_lost_a_retried_job_does_nothing_again(job, ledger, config, wipe):
    retry(job, ledger)
    run_all(ledger, config)
    wipe()
    recover(str(job.storage.root), ledger)
    assert ledger.status(job.name).state is JobState.DONE
    assert run_all(ledger, config) == 0
    assert_whole(job, ledger)
    # the next round is told by the output
    assert opened(job, ledger).retry(rows=True).round == 2


def test_a_queue_that_is_lost_later_retries_no_shard_that_was_computed_since(job, ledger, config, wipe, monkeypatch):
    retry(job, ledger)
    run_all(ledger, config)
    job.storage.delete(SUCCESS_FILE)
    job.storage.delete(MANIFEST_FILE)
    wipe()
    # as one that was set aside and computed as a whole afterwards, by the settings of the job
    job.storage.delete(part_name(1))
    recover(str(job.storage.root), ledger)
    run_one(ledger, config)
    status = ledger.status(job.name)
    assert (status.state, status.error_rows, status.shards_due) == (JobState.DONE, 1, 0)


def test_rounds_of_a_job_that_was_there_before_are_not_taken_for_ours(job, ledger, config):
    old = retry_file(1)
    data = RowRetry(job="other", round=1, created="", spec=job.record.spec, model_path="").model_dump_json()
    job.storage.put(old, data.encode())
    assert opened(job, ledger).retry(rows=True, changes={"prompt.template": WORKS}).round == 2
    run_all(ledger, config)
    assert_merged(job, ledger)


def test_a_part_that_has_vanished_is_computed_as_a_whole(job, ledger, config):
    retry(job, ledger)
    job.storage.delete(part_name(1))
    run_all(ledger, config)
    status = ledger.status(job.name)
    assert (status.state, status.rows_done, status.error_rows) == (JobState.DONE, 30, 1)
    assert job.rows() == list(range(30))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"output.keep": ["id"]}, InvalidValueError, "changes model, prompt"),
        ({"input.limit": 5}, InvalidValueError, "changes model, prompt"),
        ({"shards.rows": 5}, InvalidValueError, "changes model, prompt"),
        ({"generation.logprobs": True}, InvalidValueError, "other columns"),
        ({"generation.n": 2, "generation.temperature": 1.0}, InvalidValueError, "other columns"),
        ({"prompt.template": "{{ other }}"}, MissingColumnError, "other"),
        ({"generation.max_tokens": 5}, UnknownKeyError, "max_new_tokens"),
    ],
)
def test_a_change_that_does_not_fit_the_output_is_refused(changes, error, said, job, ledger):
    with pytest.raises(error, match=said):
        opened(job, ledger).retry(rows=True, changes=changes)
    assert ledger.status(job.name).state is JobState.DONE
    assert job.storage.head(SUCCESS_FILE) is not None


def test_a_failed_retry_leaves_the_parts_and_is_tried_again(job, ledger, config):
    retry(job, ledger)
    before = contents(job)
    while (claim := ledger.claim("w", QUEUES)) is not None:
        ledger.fail(claim, "no engine")
    from parquetry.tasks.finalize import finalize

    assert finalize(ledger, job.name) is JobState.FAILED
    assert contents(job) == before
    assert ledger.retry(job.name) == 3
    run_all(ledger, config)
    assert_merged(job, ledger)


def test_two_workers_share_the_shards(job, ledger, config):
    retry(job, ledger)
    other = type(config)(**{**vars(config), "worker": "v"})
    claims: list[Claim] = [ledger.claim(worker, QUEUES) for worker in ("w", "v", "w")]
    for claim, of in zip(claims, (config, other, config), strict=True):
        run_claim(ledger, claim, of)
    assert_merged(job, ledger)
