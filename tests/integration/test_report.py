"""What a job left behind, read back: rows beside input, errors by reason, its report; and its details as the page has
them."""

from __future__ import annotations

import pytest

from parquetry.monitor.job_details import JobDetails, NoShardError
from parquetry.schemas.errors import StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import REPORT_FILE
from parquetry.schemas.progress.states import JobState, ShardState
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks import finalize as finalizing
from parquetry.tasks.finalize import finalize
from parquetry.tasks.kept_history import read_history
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.report import publishing
from parquetry.tasks.report.error_groups import error_groups, shards_with_errors
from parquetry.tasks.report.written_rows import MAX_ROWS, NoPartError, WrittenRows, shown
from tests.page.world import HOSTILE, NOT_UTF8, TOO_LONG, World


@pytest.fixture
def world(client, ledger: Ledger, tmp_path) -> World:
    return World(client, ledger, tmp_path)


def test_rows_stand_beside_their_input(world):
    record = world.record("job", shards=4, rows=20)
    world.write_part(record, 2, {5: TOO_LONG})
    page = WrittenRows.of(record.spec.output.path, record.job).rows(2, 4, 3)
    assert (page["shard"], page["first"], page["total"]) == (2, 4, 20)
    assert (page["inputs"], page["outputs"][:2]) == (["ticket", "text"], ["row", "output"])
    assert [row["row"] for row in page["rows"]] == [44, 45, 46]
    assert page["rows"][1]["error"] == TOO_LONG and page["rows"][1]["output"] is None
    assert len(WrittenRows.of(record.spec.output.path, record.job).rows(2, 0, 10**6)["rows"]) == 20 <= MAX_ROWS
    assert WrittenRows.of(record.spec.output.path, record.job).rows(2, 10**6, 5)["rows"] == []


def test_a_shard_without_a_part_says_so(world):
    record = world.record("job", shards=4, rows=20)
    for shard in (0, -1, 4):
        with pytest.raises(NoPartError):
            WrittenRows.of(record.spec.output.path, record.job).rows(shard)


def test_cells_are_shown_in_bounded_text():
    assert shown(float("nan")) == "nan" and shown(1.5) == 1.5 and shown(True) is True
    assert shown([0.5] * 400) == "[0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ... 400 values]"
    assert shown("x" * 5000).endswith("5,000 characters") and len(shown("x" * 5000)) < 2100
    assert shown([{"role": "user"}]) == '[{"role": "user"}]'


def test_errors_are_grouped_with_rows_and_input(world):
    record = world.record("job", shards=3, rows=20)
    world.write_part(record, 0)
    world.write_part(record, 1, {1: TOO_LONG, 2: NOT_UTF8, 9: TOO_LONG.replace("9,412", "10,000")})
    storage = open_storage(Location.parse(record.spec.output.path))
    # nothing but the footers tells, and shard 2 is not there yet
    assert list(shards_with_errors(storage, record)) == [1]
    long, bad = error_groups(WrittenRows(storage, record), [1])
    assert (long.kind, long.rows, long.row_numbers) == (
        TOO_LONG.replace("9,412", "N").replace("8,192", "N"),
        2,
        [21, 29],
    )
    assert long.examples[0].input["text"] == HOSTILE
    assert (bad.kind, bad.rows) == (NOT_UTF8, 1)


def test_the_end_of_a_job_leaves_its_report_and_its_events(world, ledger):
    record = world.submit("job", shards=2, rows=20)
    world.commit(record, "w", 2, [(3, TOO_LONG)])
    for shard in range(2):
        world.write_part(record, shard, {3: TOO_LONG})
    assert finalize(ledger, record.job) is JobState.DONE
    storage = open_storage(Location.parse(record.spec.output.path))
    page = storage.read(REPORT_FILE).decode()
    assert "40 of 40" in page and '<b class="done">done</b>' in page and "9,412 tokens" in page
    kept = read_history(storage, record.job)
    assert kept is not None and [end.worker for end in kept.ends] == ["w", "w"]
    assert [event.kind for event in kept.events] == ["registered"]


@pytest.mark.parametrize(
    "fault", [StorageError(operation="writing", path="x", reason="full"), RuntimeError("odd rows")]
)
def test_a_report_that_cannot_be_written_keeps_no_job_from_ending(fault, world, ledger, monkeypatch, caplog):
    def refuse(*args: object) -> None:
        raise fault

    monkeypatch.setattr(publishing, "gather", refuse)
    record = world.submit("job", shards=1, rows=20)
    world.commit(record, "w", 1)
    world.write_part(record, 0)
    assert finalizing.finalize(ledger, record.job) is JobState.DONE
    assert open_storage(Location.parse(record.spec.output.path)).head(REPORT_FILE) is None
    assert "its report was not written" in caplog.text


def test_a_failed_job_leaves_a_report_too(world, ledger):
    record = world.submit("job", shards=1, rows=20)
    ledger.fail(ledger.claim("w", ("default",)), "no row explains it")
    assert finalize(ledger, record.job) is JobState.FAILED
    page = open_storage(Location.parse(record.spec.output.path)).read(REPORT_FILE).decode()
    assert "no row explains it" in page and '<b class="failed">failed</b>' in page


def test_a_damaged_part_is_a_sentence_not_a_fault(world, ledger):
    record = world.submit("job", shards=1, rows=20)
    world.commit(record, "w", 1, [(3, TOO_LONG)])
    (world.folder / "job" / "part-00000000.parquet").write_bytes(b"PAR1 not really")
    details = JobDetails(ledger)
    assert "not" in details.shard(record.job, 0)["unreadable"]
    assert finalize(ledger, record.job) is JobState.DONE


def test_details_of_a_running_job(world, ledger):
    record = world.running("job")
    details = JobDetails(ledger)
    assert details.shards(record.job, 0, None)["done"].count(1) == 144
    assert details.rows(record.job, None, 0, 2)["shard"] == ledger.shards.ends(record.job)[-1].shard
    committed = details.shard(record.job, 75)
    assert (committed["state"], committed["first_row"], committed["error_rows"]) == (ShardState.COMMITTED, 18_750, 3)
    assert committed["footer"]["backend"] == "packed"
    assert details.shard(record.job, 76)["reason"].startswith("part-00000076")
    with pytest.raises(NoShardError, match="0 to 239"):
        details.shard(record.job, 240)
    groups = details.errors(record.job)["groups"]
    assert [group["rows"] for group in groups] == [16, 6] and groups[0]["examples"][0]["input"]["ticket"]
    hidden = details.errors(record.job, with_input=False)["groups"]
    assert not any(example["input"] for group in hidden for example in group["examples"])
    about = details.about(record.job)
    assert about["provenance"]["backend"] == "packed" and about["num_files"] == 4
    assert {event["kind"] for event in details.happened(record.job)["events"]} == {"registered", "lost", "failed-shard"}
    assert len(details.rates(record.job)["at"]) > 50
    assert record.job in details.report(record.job)


def test_details_of_a_done_job_come_from_its_output(world, ledger):
    record = world.done("job")
    finalizing._end(ledger, ledger.status(record.job))
    ledger.forget(record.job)
    details = JobDetails(ledger)
    assert details.shard(record.job, 3)["worker"] == "gpu-node-1-90-0-11aa22"
    assert len(details.happened(record.job)["ends"]) == 12
    assert details.rows(record.job, None, 0, 1)["rows"][0]["row"] >= 0
    assert record.shard_plan.num_shards == 12


def test_details_without_the_output_are_what_the_queue_knows(world, ledger):
    record = world.submit("job", shards=2, rows=20)
    world.commit(record, "w", 1)
    (world.folder / "job" / "_job.json").unlink()
    details = JobDetails(ledger)
    assert "unreadable" in details.shard(record.job, 0)
    assert details.happened(record.job)["ends"][0]["worker"] == "w"
    with pytest.raises(StorageError):
        details.about(record.job)
