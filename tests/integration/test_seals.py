"""A long shard that is interrupted again and again: what was finished is in seals, and is not computed twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from parquetry.schemas.states import JobState
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from tests.chaos.checker import check
from tests.chaos.echo_engine import BATCH_MS, rows_begun
from tests.chaos.process import Process, wait_until
from tests.integration.jobs_on_disk import DiskJob, make_job

LEASE_S = 3.0
ROWS, MS_PER_ROW = 800, 10
DIGEST_BYTES = 32


@pytest.fixture
def policy() -> Policy:
    return Policy(lease_s=LEASE_S, max_attempts=3, starvation_s=300.0)


@pytest.fixture
def start(server, start_worker) -> Callable[[], Process]:
    settings = {"SEAL_SECONDS": 0.3, "LEASE_SECONDS": LEASE_S, "DRAIN_SECONDS": 0.5, "SHARDS_IN_FLIGHT": 1}
    environment = {f"PARQUETRY_{name}": str(value) for name, value in settings.items()}
    return lambda: start_worker(server.url, CHAOS_MS_PER_ROW=str(MS_PER_ROW), **environment)


def sealed(folder: Path) -> set[int]:
    """Rows of all seals, read without any code of ours."""
    rows: set[int] = set()
    for file in folder.rglob("*.seal"):
        with pa.ipc.open_stream(file.read_bytes()[:-DIGEST_BYTES]) as reader:
            rows |= set(reader.read_all()["row"].to_pylist())
    return rows


def wait_for_seals(folder: Path, count: int) -> None:
    wait_until(lambda: len(sealed(folder)) >= count, 60, f"{count} sealed rows")


def wait_until_free(ledger: Ledger, job: DiskJob) -> None:
    wait_until(lambda: not ledger.status(job.name).shards_running, 30, "the shard to be given back")


def test_a_shard_goes_on_from_its_seals_after_a_pause_a_drain_and_a_kill(tmp_path, ledger: Ledger, start):
    job, log = make_job(tmp_path, ledger, rows=ROWS, rows_per_shard=ROWS), tmp_path / "rows"
    first = start()
    wait_for_seals(tmp_path, 50)
    ledger.set_state(job.name, JobState.PAUSED)
    wait_until_free(ledger, job)
    # told to stop, it seals all that is finished: but for what its engine had begun
    at_pause, begun = sealed(tmp_path), rows_begun(log)
    assert len(begun) == len(set(begun))
    assert len(set(begun) - at_pause) <= 3 * BATCH_MS / MS_PER_ROW

    ledger.set_state(job.name, JobState.RUNNING)
    wait_for_seals(tmp_path, len(at_pause) + 100)
    first.stop(30)
    at_drain, num_begun = sealed(tmp_path), len(rows_begun(log))
    assert ledger.status(job.name).shards_pending == 1

    second = start()
    wait_for_seals(tmp_path, len(at_drain) + 100)
    second.kill()
    at_kill = sealed(tmp_path)
    start()
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 60, "the end of the job")

    assert check(Path(job.storage.root.path), job.table).violations == []
    assert not (tmp_path / "out" / "_attempts").exists()
    begun = rows_begun(log)
    assert at_pause < at_drain < at_kill
    assert set(begun) == set(range(ROWS))
    # whatever was sealed at an end was begun before it, and never after
    assert not at_pause & (set(begun) - at_pause - set(begun[:num_begun]))
    assert len(begun) - ROWS <= ROWS - len(at_kill) + len(begun) - num_begun
