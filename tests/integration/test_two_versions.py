"""Workers of two versions on one queue: each runs what it can read, and leaves the rest to the other with a line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from parquetry.schemas.manifest import FORMAT_VERSION, JOB_FILE
from parquetry.schemas.progress.states import JobState
from parquetry.tasks.ledger.ledger import Ledger
from tests.chaos.checker import check
from tests.chaos.process import ROOT, wait_until
from tests.integration.conftest import Server
from tests.integration.jobs_on_disk import make_job

NEWER = FORMAT_VERSION + 1
ROOMS = ("schemas", "producers", "tasks", "workers", "monitor")


def newer_tree(folder: Path) -> Path:
    """The package as a next version would be: a tree of its own, with a version and a format of records of its own."""
    package = folder / "parquetry"
    shutil.copytree(ROOT / "parquetry", package, ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    rewrite(package / "schemas/__init__.py", r'__version__ = ".*"', '__version__ = "99.0"')
    rewrite(package / "schemas/manifest.py", r"^FORMAT_VERSION = .*$", f"FORMAT_VERSION = {NEWER}")
    return folder


def rewrite(file: Path, before: str, after: str) -> None:
    text, count = re.subn(before, after, file.read_text(), flags=re.MULTILINE)
    assert count == 1
    file.write_text(text)


def test_a_half_upgraded_fleet_works(tmp_path: Path, server: Server, ledger: Ledger, start_worker: Callable) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    new = make_job(tmp_path / "new", ledger, rows=60)
    newer_record(ledger, new)
    old = make_job(tmp_path / "old", ledger, rows=400, model=tmp_path / "model", priority=9)
    ours = start_worker(server.url, CHAOS_MS_PER_ROW="10")
    wait_until(lambda: ledger.status(old.name).shards_done > 0, 60, "the job of our version to be served")
    wait_until(lambda: "left to newer ones" in ours.log.read_text(), 30, "the line")
    assert ledger.status(new.name).shards_running == ledger.status(new.name).shards_done == 0

    theirs = start_worker(server.url, CHAOS_MS_PER_ROW="10", PYTHONPATH=str(newer_tree(tmp_path / "tree")))
    wait_until(lambda: ledger.status(new.name).state is JobState.DONE, 60, "the job of the next version")
    wait_until(lambda: ledger.status(old.name).state is JobState.DONE, 60, "the job of ours")
    assert "parquetry 99.0 serving" in theirs.log.read_text()
    for job in (old, new):
        assert check(Path(job.storage.root.path), job.table).violations == []
        assert ledger.status(job.name).retries == 0
    served = {worker.reads for worker in ledger.workers()}
    assert served == {FORMAT_VERSION, NEWER}
    assert all("Traceback" not in worker.log.read_text() for worker in (ours, theirs))


def newer_record(ledger: Ledger, job) -> None:
    """As a submission of the next version would have left it, with a key that ours does not know."""
    ledger.remove(job.name)
    record = job.record.model_copy(update={"version": NEWER})
    job.storage.put(JOB_FILE, record.model_dump_json().encode())
    ledger.register(record)
