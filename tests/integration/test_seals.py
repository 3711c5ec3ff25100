"""A long shard that is interrupted again and again: what was finished is in seals, and is not computed twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.policy import Policy
from tests.chaos.checker import check
from tests.chaos.echo_engine import BATCH_MS, rows_begun
from tests.chaos.process import Process, wait_until
from tests.integration.jobs_on_disk import make_job

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


class Ends:
    """What was sealed, and what engines had begun, each time the shard was interrupted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._moments: list[tuple[set[int], Counter[int]]] = []

    def begun(self) -> Counter[int]:
        return Counter(rows_begun(self._folder / "rows"))

    def note(self) -> set[int]:
        """To be called when nobody runs the shard; the sealed rows."""
        self._moments.append((sealed(self._folder), self.begun()))
        return self._moments[-1][0]

    def wait_for_more(self, count: int) -> None:
        known = len(self._moments[-1][0]) if self._moments else 0
        wait_until(lambda: len(sealed(self._folder)) >= known + count, 60, f"{count} more sealed rows")

    def begun_although_sealed(self) -> set[int]:
        after = self.begun()
        return set[int]().union(*(rows & set(after - before) for rows, before in self._moments))


def test_a_shard_goes_on_from_its_seals_after_a_pause_a_drain_and_a_kill(tmp_path, ledger: Ledger, start):
    job, ends = make_job(tmp_path, ledger, rows=ROWS, rows_per_shard=ROWS), Ends(tmp_path)
    first = start()
    ends.wait_for_more(50)
    ledger.set_state(job.name, JobState.PAUSED)
    wait_until(lambda: not ledger.status(job.name).shards_running, 30, "the shard to be given back")
    # told to stop, it seals all that is finished: but for what its engine had begun
    assert len(set(ends.begun()) - ends.note()) <= 3 * BATCH_MS / MS_PER_ROW

    ledger.set_state(job.name, JobState.RUNNING)
    ends.wait_for_more(100)
    first.stop(30)
    ends.note()
    assert ledger.status(job.name).shards_pending == 1

    second = start()
    ends.wait_for_more(100)
    second.kill()
    ends.note()
    start()
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 60, "the end of the job")

    assert check(Path(job.storage.root.path), job.table).violations == []
    assert not (tmp_path / "out" / "_attempts").exists()
    assert set(ends.begun()) == set(range(ROWS))
    assert ends.begun_although_sealed() == set()
    status = ledger.status(job.name)
    assert 250 <= status.reused_rows < ROWS
    # what was taken over is in the totals, and in no rate
    last = ledger.history(job.name)[-1]
    assert (last.rows, last.reused_rows, status.computed_output_tokens) == (
        ROWS,
        status.reused_rows,
        status.output_tokens,
    )


def test_a_cancelled_job_keeps_no_seals(tmp_path, ledger: Ledger, start):
    job = make_job(tmp_path, ledger, rows=ROWS, rows_per_shard=ROWS)
    start()
    Ends(tmp_path).wait_for_more(50)
    ledger.set_state(job.name, JobState.CANCELLED)
    wait_until(lambda: not (tmp_path / "out" / "_attempts" / "sealed").exists(), 30, "the seals to be removed")
