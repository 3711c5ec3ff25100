"""A shard's rows: the right ones, in order, from any format, and never from a file that changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parquetry.schemas.errors import InputChangedError, MissingColumnError, UnreadableFileError
from parquetry.workers.shards.reader import BATCH_ROWS, input_schema, read_shard
from tests.unit.workers.workers_records import input_file, make_record, write_table

ROWS = 1000


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> Path:
    """Uneven row groups."""
    path = tmp_path_factory.mktemp("input") / "a.parquet"
    table = pa.table({"id": range(ROWS), "text": [f"t{i}" for i in range(ROWS)], "other": [0] * ROWS})
    return write_table(path, table, row_group_size=137)


def rows_of(record, index: int) -> list[int]:
    return [row for rows in read_shard(record, record.shard_plan.shard(index)) for row in rows.batch["id"].to_pylist()]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_per_shard=st.integers(1, 1200).filter(lambda n: n > 40))
def test_shards_tile_the_input(parquet, rows_per_shard):
    record = make_record([parquet], rows_per_shard=rows_per_shard)

    found = [row for index in range(record.shard_plan.num_shards) for row in rows_of(record, index)]

    assert found == list(range(ROWS))


def test_a_shard_across_files(tmp_path):
    files = [
        write_table(tmp_path / f"{n}.parquet", {"id": range(n * 10, n * 10 + 10), "text": ["x"] * 10})
        for n in (0, 1, 2)
    ]
    record = make_record(files, rows_per_shard=25)

    assert rows_of(record, 0) == list(range(25))
    assert rows_of(record, 1) == list(range(25, 30))


def test_only_the_needed_columns_are_read(parquet):
    record = make_record([parquet], output={"path": "out", "keep": ["id"]})

    assert input_schema(record).names == ["id", "text"]
    assert next(read_shard(record, record.shard_plan.shard(0))).batch.schema.names == ["id", "text"]


def test_all_columns_are_kept_by_default(parquet):
    assert input_schema(make_record([parquet])).names == ["id", "text", "other"]


def test_a_missing_column_is_named_with_its_nearest(parquet):
    with pytest.raises(MissingColumnError, match=r"prompt.template names the column 'txt'.*did you mean 'text'"):
        make_record([parquet], prompt={"template": "{{ txt }}"})


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_text_files_are_read_by_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps({"id": i, "text": f"t{i}\nx"}) + "\n" for i in range(ROWS)))
    else:
        path.write_text("id,text\n" + "".join(f'{i},"t{i}\nx"\n' for i in range(ROWS)))
    record = make_record([path], rows_per_shard=300)

    assert [rows_of(record, index) for index in range(4)] == [
        list(range(n, min(n + 300, ROWS))) for n in (0, 300, 600, 900)
    ]


def test_partition_columns_come_from_the_path(tmp_path):
    (tmp_path / "lang=de").mkdir()
    path = write_table(tmp_path / "lang=de" / "a.parquet", {"id": [0, 1], "text": ["a", "b"]})
    record = make_record([input_file(path, lang="de")])

    (rows,) = read_shard(record, record.shard_plan.shard(0))

    assert rows.batch["lang"].to_pylist() == ["de", "de"]


def test_only_partition_columns(tmp_path):
    path = write_table(tmp_path / "a.parquet", {"id": [0, 1, 2]})
    record = make_record(
        [input_file(path, lang="de")], output={"path": "out", "keep": ["lang"]}, prompt={"template": "{{ lang }}"}
    )

    (rows,) = read_shard(record, record.shard_plan.shard(0))

    assert rows.batch.to_pydict() == {"lang": ["de"] * 3}


def test_columns_in_another_order_and_nullability(tmp_path):
    first = write_table(tmp_path / "a.parquet", {"id": [0], "text": ["a"]})
    strict = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("id", pa.int64())])
    second = write_table(tmp_path / "b.parquet", pa.table({"text": ["b"], "id": [1]}, schema=strict))
    record = make_record([first, second])

    batches = list(read_shard(record, record.shard_plan.shard(0)))

    assert [rows.batch.schema for rows in batches] == [input_schema(record)] * 2


def test_batches_are_small_in_rows_and_bytes(tmp_path):
    long = write_table(tmp_path / "long.parquet", {"id": range(100), "text": ["x" * 100_000] * 100})
    short = write_table(tmp_path / "short.parquet", {"id": range(2000), "text": ["x"] * 2000})
    record = make_record([long, short])

    sizes = [(rows.num_rows, rows.batch["text"].nbytes) for rows in read_shard(record, record.shard_plan.shard(0))]

    assert max(rows for rows, _ in sizes) <= BATCH_ROWS
    assert max(size for _, size in sizes) < 2 << 20


@pytest.mark.parametrize("change", ["rewrite", "touch", "remove"])
def test_a_changed_file_is_refused(tmp_path, change):
    path = write_table(tmp_path / "a.parquet", {"id": [0], "text": ["a"]})
    record = make_record([path])
    if change == "rewrite":
        write_table(path, {"id": [0, 1], "text": ["a", "b"]})
    elif change == "touch":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()

    with pytest.raises(InputChangedError, match=r"a\.parquet"):
        list(read_shard(record, record.shard_plan.shard(0)))


def test_a_damaged_file_is_named(tmp_path):
    path = write_table(tmp_path / "a.parquet", {"id": range(1000), "text": [f"text {i}" for i in range(1000)]})
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    record = make_record([path])

    with pytest.raises(UnreadableFileError, match=r"a\.parquet"):
        list(read_shard(record, record.shard_plan.shard(0)))
