"""What storage alone brings back, what the reconciler mends, and who ends a job."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import PartInvalidError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE, MANIFEST_FILE, SUCCESS_FILE, Manifest
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import part_name
from parquetry.schemas.spec.columns import ERROR, ROW, task_fields
from parquetry.tasks.finalize import finalize
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.reconciler import AUDIT_EVERY, Reconciler
from parquetry.tasks.recovery import NoJobHereError, recover
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.shards.part import find_part
from parquetry.workers.shards.provenance import provenance
from parquetry.workers.shards.shard_progress import RowCounts
from parquetry.workers.shards.writer import PartWriter
from tests.chaos.checker import check
from tests.integration.jobs_on_disk import DiskJob, make_job
from tests.integration.records import in_threads

QUEUES = ("default",)


def publish(job: DiskJob, shard: int, fence: int = 1) -> None:
    """Put a true part into storage, as a runner would that could not report it."""
    part_shard = job.record.shard_plan.shard(shard)
    kept = pq.read_table(job.table).slice(part_shard.first_row, part_shard.num_rows).combine_chunks()
    batch = echoed(kept, part_shard.first_row, pa.schema([*kept.schema, ROW, *task_fields(job.record.spec), ERROR]))
    counts = RowCounts(rows=len(kept), prompt_tokens=len(kept), output_tokens=2 * len(kept))
    about = provenance(job.record, part_shard, fence, Checkpoint.resolve(job.record.spec.model), {"backend": "echo"})
    with job.storage.attempt(f"part-{shard}.parquet") as attempt:
        writer = PartWriter(attempt, batch.schema, about)
        writer.write(batch)
        writer.close(counts)
        assert job.storage.publish(attempt, part_name(shard))


def echoed(kept: pa.Table, first_row: int, schema: pa.Schema) -> pa.RecordBatch:
    count = len(kept)
    columns = {name: kept[name].combine_chunks() for name in kept.column_names}
    columns |= {"row": range(first_row, first_row + count), "output": columns["text"]}
    columns |= {"finish_reason": ["stop"] * count, "error": [None] * count}
    columns |= {"prompt_tokens": [1] * count, "output_tokens": [2] * count}
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def commit_all_but_end(job: DiskJob, ledger: Ledger) -> None:
    for shard in range(job.record.shard_plan.num_shards):
        publish(job, shard)
        part = find_part(job.storage, job.record, shard)
        ledger.adopt(job.name, part)


def test_recover_counts_what_is_there_and_runs_the_rest(tmp_path, ledger, wipe):
    job = make_job(tmp_path, ledger, rows=40)
    publish(job, 1, fence=7)
    publish(job, 2)
    wipe()
    assert recover(str(tmp_path / "out"), ledger) == job.record
    status = ledger.status(job.name)
    assert (status.shards_done, status.rows_done, status.output_tokens) == (2, 20, 40)
    assert [ledger.claim("w", QUEUES).shard for _ in range(2)] == [0, 3]
    assert list(ledger.digests.read(job.name, 4))[1].fence == 7


def test_recover_of_all_parts_ends_the_job(tmp_path, ledger, wipe):
    job = make_job(tmp_path, ledger)
    for shard in range(3):
        publish(job, shard)
    wipe()
    recover(str(tmp_path / "out"), ledger)
    assert ledger.status(job.name).state is JobState.DONE
    assert check(tmp_path / "out", job.table).violations == []


def test_recover_of_a_finished_job_reads_no_part(tmp_path, ledger, client, monkeypatch, wipe):
    job = make_job(tmp_path, ledger)
    commit_all_but_end(job, ledger)
    finalize(ledger, job.name)
    wipe()
    monkeypatch.setattr("parquetry.tasks.recovery.find_part", lambda *_: pytest.fail("a part was read"))
    for _ in range(2):
        recover(str(tmp_path / "out"), ledger)
        status = ledger.status(job.name)
        assert (status.state, status.shards_done, status.rows_done) == (JobState.DONE, 3, 30)


def test_recover_into_a_ledger_that_knows_the_job_adds_what_it_missed(tmp_path, ledger):
    job = make_job(tmp_path, ledger)
    running = ledger.claim("w", QUEUES)
    publish(job, 2)
    recover(str(tmp_path / "out"), ledger)
    status = ledger.status(job.name)
    assert (status.shards_done, status.shards_running, status.shards_pending) == (1, 1, 1)
    assert ledger.beat(running) == "OK"


def test_recover_refuses_a_folder_without_a_job(tmp_path, ledger):
    with pytest.raises(NoJobHereError, match=r"_job\.json"):
        recover(str(tmp_path), ledger)


def test_recover_names_a_part_that_is_none(tmp_path, ledger, wipe):
    job = make_job(tmp_path, ledger)
    job.storage.put(part_name(1), b"PAR1 truncated")
    wipe()
    with pytest.raises(PartInvalidError, match=part_name(1)):
        recover(str(tmp_path / "out"), ledger)


def test_one_finalizer_however_many_race(tmp_path, ledger, caplog):
    job = make_job(tmp_path, ledger)
    commit_all_but_end(job, ledger)
    with caplog.at_level(logging.INFO, logger="parquetry.tasks.finalize"):
        in_threads(lambda: finalize(ledger, job.name), 8)
    assert sum("is done" in record.message for record in caplog.records) == 1
    assert ledger.status(job.name).state is JobState.DONE
    assert check(tmp_path / "out", job.table).violations == []


def test_vanished_part_is_run_again_before_the_job_ends(tmp_path, ledger):
    job = make_job(tmp_path, ledger)
    commit_all_but_end(job, ledger)
    job.storage.delete(part_name(1))
    assert finalize(ledger, job.name) is JobState.RUNNING
    assert job.storage.head(MANIFEST_FILE) is None
    assert ledger.claim("w", QUEUES).shard == 1


def test_manifest_of_parts_the_ledger_never_saw_is_read_from_them(tmp_path, ledger, client, keys):
    job = make_job(tmp_path, ledger)
    commit_all_but_end(job, ledger)
    client.delete(keys.digests(job.name, 0))
    assert finalize(ledger, job.name) is JobState.DONE
    assert check(tmp_path / "out", job.table).violations == []


def test_manifest_that_lists_other_parts_is_not_accepted(tmp_path, ledger):
    job = make_job(tmp_path, ledger)
    commit_all_but_end(job, ledger)
    other = Manifest(job=job.name, rows=0, error_rows=0, parts=())
    job.storage.put(MANIFEST_FILE, other.model_dump_json().encode())
    with pytest.raises(PartInvalidError, match="other parts"):
        finalize(ledger, job.name)
    assert job.storage.head(SUCCESS_FILE) is None


def test_reconciler_reaps_tops_up_and_ends(tmp_path, server, ledger, client, keys):
    job = make_job(tmp_path, ledger)
    ledger.claim("gone", QUEUES)
    client.zadd(keys.of_job(job.name, "lease"), {"0": 0})
    ledger.roster.announce("w", host="h", device="cpu", queues=QUEUES, shards_in_flight=4)
    reconciler = Reconciler(ledger, server.url, 5.0)
    assert reconciler.reconcile()
    status = ledger.status(job.name)
    assert (status.shards_running, status.shards_pending, status.retries) == (0, 3, 1)
    assert ledger.permits("default") == 3
    client.delete(f"{keys.prefix}permits.default")
    reconciler.reconcile()
    assert ledger.permits("default") == 3

    commit_all_but_end(job, ledger)
    reconciler.reconcile()
    assert ledger.status(job.name).state is JobState.DONE
    assert Path(job.storage.root.path, SUCCESS_FILE).exists()


def test_reconciler_audits_now_and_then(tmp_path, server, ledger, client, keys):
    job = make_job(tmp_path, ledger)
    client.delete(keys.of_job(job.name, "pend"))
    reconciler = Reconciler(ledger, server.url, 5.0)
    for _ in range(AUDIT_EVERY):
        reconciler.reconcile()
    assert ledger.claim("w", QUEUES).shard == 0


def test_one_reconciler_at_a_time(server, ledger, client, keys):
    client.set(keys.lock("reconcile"), "somebody else", px=60_000)
    assert not Reconciler(ledger, server.url, 5.0).reconcile()
    client.delete(keys.lock("reconcile"))
    assert Reconciler(ledger, server.url, 5.0).reconcile()


def test_output_that_cannot_be_written_leaves_the_job_for_later(tmp_path, server, ledger, caplog):
    job = make_job(tmp_path, ledger)
    commit_all_but_end(job, ledger)
    record = job.storage.read(JOB_FILE)
    job.storage.delete(JOB_FILE)
    Reconciler(ledger, server.url, 5.0).reconcile()
    assert ledger.status(job.name).state is JobState.RUNNING
    assert "cannot be finalized yet" in caplog.text
    job.storage.put(JOB_FILE, record)
    Reconciler(ledger, server.url, 5.0).reconcile()
    assert ledger.status(job.name).state is JobState.DONE


def test_output_location_in_the_ledger_is_absolute(tmp_path, ledger):
    job = make_job(tmp_path, ledger)
    assert ledger.status(job.name).output == str(Location.parse(str(tmp_path / "out")))
