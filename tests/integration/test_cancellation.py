"""A job is cancelled by whoever cancels it in the same way: it keeps its history, and no seals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from parquetry import Job
from parquetry.monitor.serving.web import CHANGES
from parquetry.schemas.progress.history import HISTORY_FILE
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.ledger import Ledger
from tests.integration.jobs_on_disk import make_job

WAYS: dict[str, Callable[[Ledger, str, Path], object]] = {
    "the page": lambda ledger, job, _folder: CHANGES["cancel"](ledger, job),
    "the API": lambda ledger, job, folder: Job(job, str(folder), ledger).cancel(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_no_worker_serves_keeps_no_seals(way: str, tmp_path: Path, ledger: Ledger) -> None:
    job = make_job(tmp_path, ledger)
    folder = Path(job.storage.root.path)
    seal = folder / "_attempts" / "sealed" / "00000000" / "0-5.1.ab.seal"
    seal.parent.mkdir(parents=True)
    seal.write_bytes(b"x")
    WAYS[way](ledger, job.name, folder)
    assert ledger.status(job.name).state is JobState.CANCELLED
    assert not seal.parent.parent.exists()
    assert (folder / HISTORY_FILE).exists()
