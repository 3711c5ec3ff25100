"""A `_job.json` that somebody edits while its job runs: no part is written, listed or counted under another spec."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import RecordChangedError
from parquetry.schemas.manifest import JOB_FILE, MANIFEST_FILE, SUCCESS_FILE
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import part_name
from parquetry.tasks.finalize import finalize
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.recovery import recover
from tests.chaos.checker import check
from tests.chaos.process import wait_until
from tests.integration.conftest import Server
from tests.integration.jobs_on_disk import DiskJob, make_job
from tests.integration.records import make_part

Edit = Callable[[dict[str, Any]], None]


def another_template(data: dict[str, Any]) -> None:
    data["spec"]["prompt"]["template"] = "Say {{ text }}"


def other_bounds(data: dict[str, Any]) -> None:
    data["plan"]["bounds"][1] -= 1


def another_model_folder(data: dict[str, Any]) -> None:
    data["model_path"] += "-other"


EDITS = (another_template, other_bounds, another_model_folder)


def edit(job: DiskJob, change: Edit) -> bytes:
    """What was there before."""
    before = job.storage.read(JOB_FILE)
    data = json.loads(before)
    change(data)
    job.storage.put(JOB_FILE, json.dumps(data).encode())
    return before


def test_a_worker_refuses_the_job_in_a_sentence_and_goes_on_once_the_record_is_back(
    tmp_path: Path, server: Server, ledger: Ledger, start_worker: Callable
) -> None:
    job = make_job(tmp_path, ledger, rows=400, rows_per_shard=20)
    worker = start_worker(server.url, CHAOS_MS_PER_ROW="20")
    wait_until(lambda: ledger.status(job.name).shards_done > 1, 60, "the first parts")
    before = edit(job, another_template)
    wait_until(lambda: ledger.status(job.name).state is JobState.FAILED, 30, "the refusal")
    wait_until(lambda: ledger.status(job.name).shards_running == 0, 30, "the end of what ran")
    failed = ledger.status(job.name)
    assert "is not what job" in failed.failures[0].reason and "_job.json" in failed.failures[0].reason
    assert 0 < failed.shards_done == len(job.parts()) < failed.shards
    assert not {template_of(job, part) for part in job.parts()} - {template_of(job, part_name(0))}
    with pytest.raises(RecordChangedError):
        recover(str(job.storage.root), ledger)

    job.storage.put(JOB_FILE, before)
    assert ledger.retry(job.name) >= 1
    wait_until(lambda: ledger.status(job.name).state is JobState.DONE, 60, "the end")
    assert check(Path(job.storage.root.path), job.table).violations == []
    assert "Traceback" not in worker.log.read_text()


def template_of(job: DiskJob, part: str) -> bytes:
    with job.storage.open(part) as file:
        return next(value for key, value in pq.read_metadata(file).metadata.items() if key.endswith(b"template_sha256"))


@pytest.mark.parametrize("change", EDITS)
def test_finalize_lists_no_parts_under_another_record(tmp_path: Path, ledger: Ledger, change: Edit) -> None:
    job = make_job(tmp_path, ledger)
    for shard in range(3):
        ledger.adopt(job.name, make_part(shard))
    before = edit(job, change)
    assert finalize(ledger, job.name) is JobState.FAILED
    assert "is not what job" in (ledger.status(job.name).refusal or "")
    assert not [name for name in (MANIFEST_FILE, SUCCESS_FILE) if job.storage.head(name)]

    job.storage.put(JOB_FILE, before)
    ledger.retry(job.name)
    status = ledger.status(job.name)
    assert (status.state, status.refusal) == (JobState.RUNNING, None)


def test_the_way_it_is_written_and_its_priority_do_not_matter(tmp_path: Path, ledger: Ledger) -> None:
    job = make_job(tmp_path, ledger)

    def another_priority(data: dict[str, Any]) -> None:
        data["spec"]["priority"] = 1

    edit(job, another_priority)
    assert recover(str(job.storage.root), ledger).digest == job.record.digest


def test_an_edited_record_is_no_job_of_an_empty_queue(tmp_path: Path, ledger: Ledger) -> None:
    job = make_job(tmp_path, ledger)
    ledger.remove(job.name)
    edit(job, another_template)
    with pytest.raises(RecordChangedError, match="put it back as it was"):
        recover(str(job.storage.root), ledger)
