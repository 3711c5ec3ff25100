"""Parts: written whole or not at all, and believed only after a look inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.schemas.errors import PartInvalidError, StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.spec.columns import ERROR, ROW, task_fields
from parquetry.schemas.storage.opening import open_storage
from parquetry.workers.shards.part import find_part
from parquetry.workers.shards.provenance import as_metadata
from parquetry.workers.shards.shard_progress import RowCounts
from parquetry.workers.shards.writer import ROW_GROUP_ROWS, PartWriter
from tests.unit.workers.workers_records import make_record, write_table

NAME = "part-00000001.parquet"
KEYS = {"job": "job-0123456789ab", "shard": "1", "fence": "5"}
COUNTS = RowCounts(rows=10, error_rows=1, prompt_tokens=20, output_tokens=30)


@pytest.fixture
def record(tmp_path):
    source = write_table(tmp_path / "in.parquet", {"id": range(20), "text": ["x"] * 20})
    return make_record([source], rows_per_shard=10, output={"path": "out", "keep": ["id"]})


def part_batch(record, *, first_row: int = 10, rows: int = 10) -> pa.RecordBatch:
    schema = pa.schema([pa.field("id", pa.int64()), ROW, *task_fields(record.spec), ERROR])
    numbers = list(range(first_row, first_row + rows))
    values = {"id": numbers, "row": numbers, "output": ["y"] * rows, "finish_reason": ["stop"] * rows}
    columns = [pa.array(values.get(field.name, [None] * rows), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def write_part(path: Path, batch: pa.RecordBatch, *, keys=KEYS, counts=COUNTS) -> None:
    if counts is None:
        pq.write_table(pa.Table.from_batches([batch]).replace_schema_metadata(as_metadata(keys)), path)
        return
    writer = PartWriter(path, batch.schema, keys)
    writer.write(batch)
    writer.close(counts)


def check(folder: Path, record):
    return find_part(open_storage(Location.parse(str(folder))), record, 1)


def test_a_whole_part_is_verified(tmp_path, record):
    write_part(tmp_path / NAME, part_batch(record))

    part = check(tmp_path, record)

    assert (part.path, part.shard, part.fence, part.rows, part.error_rows) == (NAME, 1, 5, 10, 1)
    assert (part.prompt_tokens, part.output_tokens) == (20, 30)
    assert part.size == (tmp_path / NAME).stat().st_size
    assert len(part.sha256) == 64
    assert part.etag


@pytest.mark.parametrize(
    ("keys", "counts", "batch", "reason"),
    [
        ({**KEYS, "job": "other"}, COUNTS, {}, "belongs to job other"),
        ({**KEYS, "shard": "2"}, COUNTS, {}, "shard 2"),
        ({**KEYS, "fence": ""}, COUNTS, {}, "no fence"),
        (KEYS, None, {}, "no rows"),
        (KEYS, COUNTS, {"rows": 9}, "9 rows, not 10"),
        (KEYS, replace(COUNTS, rows=9), {}, "not 10"),
        (KEYS, COUNTS, {"first_row": 11}, "do not run from 10 to 19"),
    ],
)
def test_a_part_that_is_something_else_is_refused(tmp_path, record, keys, counts, batch, reason):
    write_part(tmp_path / NAME, part_batch(record, **batch), keys=keys, counts=counts)

    with pytest.raises(PartInvalidError, match=reason):
        check(tmp_path, record)


def test_other_columns_are_refused(tmp_path, record):
    batch = part_batch(record)
    write_part(tmp_path / NAME, batch.rename_columns(["idx", *batch.schema.names[1:]]))
    with pytest.raises(PartInvalidError, match="input columns idx instead of id"):
        check(tmp_path, record)

    write_part(tmp_path / NAME, batch.drop_columns("error"))
    with pytest.raises(PartInvalidError, match="last columns"):
        check(tmp_path, record)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_short_file_is_refused(tmp_path, record, length):
    write_part(tmp_path / NAME, part_batch(record))
    data = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(data[:length])

    with pytest.raises(PartInvalidError, match="not a whole Parquet file"):
        check(tmp_path, record)


def test_a_missing_part_is_not_found(tmp_path, record):
    assert check(tmp_path, record) is None


def test_an_aborted_attempt_is_no_parquet_file(tmp_path, record):
    path = tmp_path / NAME
    writer = PartWriter(path, part_batch(record).schema, KEYS)
    writer.write(part_batch(record, rows=ROW_GROUP_ROWS))
    writer.abort()
    del writer

    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(path)


def test_a_crashed_attempt_is_no_parquet_file(tmp_path, record):
    path = tmp_path / NAME
    writer = PartWriter(path, part_batch(record).schema, KEYS)
    writer.write(part_batch(record, rows=ROW_GROUP_ROWS))

    with pytest.raises(pa.ArrowInvalid):
        pq.ParquetFile(path)
    writer.abort()


def test_row_groups_do_not_depend_on_the_batches(tmp_path, record):
    whole = part_batch(record, rows=ROW_GROUP_ROWS + 10)
    for name, step in (("a", 512), ("b", 1024)):
        writer = PartWriter(tmp_path / name, whole.schema, KEYS)
        for start in range(0, whole.num_rows, step):
            writer.write(whole.slice(start, step))
        writer.close(COUNTS)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_full_disk_is_a_sentence() -> None:
    with pytest.raises(StorageError, match=r"writing of /dev/full failed: .*No space left on device"):
        PartWriter(Path("/dev/full"), pa.schema([ROW]), KEYS)
