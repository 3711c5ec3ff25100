"""Parquet files whose schemas differ without harm, whose text is not UTF-8, and that unfold into far more."""

from __future__ import annotations

import json
import resource
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.schemas.errors import MixedSchemasError, RowError, UnreadableFileError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import InputSpec
from parquetry.workers.preparation.cells import cells
from parquetry.workers.reading.conform import Repairs
from parquetry.workers.reading.utf8 import is_valid, repaired
from parquetry.workers.shards.reader import read_shard
from tests.unit.workers.reading.test_text_files import read
from tests.unit.workers.workers_records import make_record

EPOCH = datetime(1970, 1, 1)


def files(folder: Path, *arrays: pa.Array) -> list[Path]:
    """A file for each array, its column named v."""
    paths = [folder / f"{number}.parquet" for number in range(len(arrays))]
    for path, array in zip(paths, arrays, strict=True):
        pq.write_table(pa.table({"v": array}), path)
    return paths


@pytest.mark.parametrize(("one", "other", "values"), [
    (pa.array(["a"], pa.string()), pa.array(["b"], pa.large_string()), ["a", "b"]),
    (pa.array(["a"], pa.string_view()), pa.array(["b"], pa.large_string()), ["a", "b"]),
    (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), ["a", "b"]),
    (pa.nulls(1), pa.array(["b"]), [None, "b"]),
    (pa.array([1], pa.int32()), pa.array([2**40]), [1, 2**40]),
    (pa.array([-1], pa.int8()), pa.array([2**32 - 1], pa.uint32()), [-1, 2**32 - 1]),
    (pa.array([-1]), pa.array([2**64 - 1], pa.uint64()), [Decimal(-1), Decimal(2**64 - 1)]),
    (pa.array([1]), pa.array([0.5]), [1.0, 0.5]),
    (pa.array([0.5], pa.float32()), pa.array([0.1]), [0.5, 0.1]),
    (pa.array([Decimal("1.50")]), pa.array([Decimal("12345.678")]), [Decimal("1.500"), Decimal("12345.678")]),
    (pa.array([Decimal("1.50")]), pa.array([7]), [Decimal("1.50"), Decimal("7.00")]),
    (pa.array([0], pa.timestamp("ms")), pa.array([1], pa.timestamp("us")), [EPOCH, EPOCH.replace(microsecond=1)]),
    (pa.array([[1]], pa.list_(pa.int32())), pa.array([[2]], pa.large_list(pa.int64())), [[1], [2]]),
    (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), pa.array([[3]], pa.list_(pa.int32())), [[1, 2], [3]]),
    (pa.array([{"a": 1}]), pa.array([{"b": "x", "a": None}]), [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
    (
        pa.array([[{"a": 1}], None]),
        pa.array([[{"b": "x"}], []]),
        [[{"a": 1, "b": None}], None, [{"a": None, "b": "x"}], []],
    ),
    (
        pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        pa.array([[("k", 2)]], pa.map_(pa.string(), pa.int64())),
        [[("k", 1)], [("k", 2)]],
    ),
])  # fmt: skip
def test_types_that_differ_without_harm(tmp_path, one, other, values):
    for order in ((one, other), (other, one)):
        table, faults = read(*files(tmp_path, *order))
        found = table["v"].to_pylist()
        half = len(values) // 2
        assert found == values if order[0] is one else found == values[half:] + values[:half]
        assert faults == {}


@pytest.mark.parametrize(("one", "other"), [
    (pa.array(["1"]), pa.array([1])),
    (pa.array([True]), pa.array([1])),
    (pa.array([b"x"]), pa.array(["x"])),
    (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC"))),
    (pa.array([[1]]), pa.array([1])),
    (pa.array([{"a": 1}]), pa.array([{"a": "x"}])),
])  # fmt: skip
def test_types_that_only_the_user_can_choose_between(tmp_path, one, other):
    files(tmp_path, one, other)
    with pytest.raises(MixedSchemasError) as refusal:
        find_inputs(InputSpec(path=str(tmp_path)))
    message = str(refusal.value)
    # Parquet calls the items of a list elements
    types = [str(array.type).partition("<item")[0] for array in (one, other)]
    for part in ("0.parquet", "1.parquet", "column 'v'", *types, "leave it out"):
        assert part in message


def test_only_cells_that_do_not_fit_are_lost(tmp_path):
    table, faults = read(*files(tmp_path, pa.array([1, 2**53 + 1]), pa.array([0.5])))
    assert table["v"].to_pylist() == [1.0, None, 0.5]
    assert faults == {1: "v holds a value that is no double"}
    far = pa.array([10**15 * 300], pa.timestamp("us"))
    table, faults = read(*files(tmp_path, far, pa.array([1], pa.timestamp("ns"))))
    assert table["v"].null_count == 1
    assert faults == {0: "v holds a value that is no timestamp[ns]"}


def test_required_beside_nullable_and_columns_that_are_not_there(tmp_path):
    strict = pa.schema([pa.field("v", pa.struct([pa.field("a", pa.int64(), nullable=False)]), nullable=False)])
    pq.write_table(pa.table({"v": [{"a": 1}]}, schema=strict), tmp_path / "0.parquet")
    pq.write_table(pa.table({"v": [{"a": 2}, None], "more": ["x", "y"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"v": pa.array([], pa.string())}), tmp_path / "3.parquet")
    found = find_inputs(InputSpec(path=str(tmp_path)))
    assert found.schema.names == ["v", "more"]
    table, _ = read(*[tmp_path / f"{number}.parquet" for number in range(2)])
    assert table.to_pydict() == {"v": [{"a": 1}, {"a": 2}, None], "more": [None, "x", "y"]}


def test_duplicates_of_columns_that_are_not_read(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array(["x"])], names=["a", "a", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    assert find_inputs(InputSpec(path=str(tmp_path), columns=["text"])).schema.names == ["text"]
    with pytest.raises(UnreadableFileError, match=r"more than one column named 'a'; rename one"):
        find_inputs(InputSpec(path=str(tmp_path)))


def broken() -> pa.Array:
    """Good text, text that is not UTF-8, and null."""
    return pa.array([b"ok", b"x\xffy", None], pa.binary()).view(pa.string())


@pytest.mark.parametrize("wrap", [
    lambda a: a,
    lambda a: pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int32()), a.slice(0, 2)),
    lambda a: pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), a),
    lambda a: pa.StructArray.from_arrays([a], names=["s"]),
    lambda a: pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), pa.array(["k"] * 3), a),
    lambda a: pa.FixedSizeListArray.from_arrays(a, 1),
])  # fmt: skip
def test_text_that_is_not_utf8_is_repaired_at_any_depth(wrap):
    array = wrap(broken())
    clean, rows = repaired(array)
    assert rows == [1]
    assert is_valid(clean) and clean.type == array.type
    assert "x\ufffdy" in str(clean.to_pylist()) and "ok" in str(clean.to_pylist())


def test_a_kept_column_is_repaired_and_counted_and_a_used_one_is_an_error(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b", "c"], "note": broken()}), tmp_path / "a.parquet")
    repairs = Repairs()
    table, faults = read(tmp_path / "a.parquet", prompt={"template": "{{ text }}"}, repairs=repairs)
    assert table["note"].to_pylist() == ["ok", "x\ufffdy", None]
    assert (faults, repairs) == ({}, {"note": 1})
    _, faults = read(tmp_path / "a.parquet", prompt={"template": "{{ note }}"})
    assert faults == {1: "note is not valid UTF-8"}


@pytest.mark.parametrize("value", ["y" * (4 << 20), ["z", "y" * (4 << 20)], {"a": "y" * (4 << 20)}])
def test_a_file_that_repeats_one_long_text_is_read_in_pieces(tmp_path, value):
    path = tmp_path / "a.parquet"
    one = pa.array([value])
    kind = one.type
    # written as a dictionary, since twelve gigabytes of text are no test
    table = pa.table({"id": [0], "v": one})
    with pq.ParquetWriter(path, table.schema, compression="zstd", dictionary_pagesize_limit=64 << 20) as writer:
        writer.write_table(pa.concat_tables([table] * 300), row_group_size=300)
    assert path.stat().st_size < 1 << 20
    record = make_record([path], prompt={"template": "{{ id }}"})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes = [rows.batch.nbytes for rows in read_shard(record, record.shard_plan.shard(0))]
    assert sum(sizes) > 300 * (4 << 20)
    assert max(sizes) < 80 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10
    assert kind == table.schema.field("v").type


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setenv("PARQUETRY_MAX_CELL_BYTES", "1000")
    monkeypatch.setenv("PARQUETRY_MAX_ROW_BYTES", "10000")
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_a_cell_beyond_the_limit_is_null_in_its_row(tmp_path, small_limits):
    values = ["a", "y" * 2000, "b", None]
    for array in (pa.array(values), pa.array([v and [v] for v in values]), pa.array(values).dictionary_encode()):
        table, faults = read(*files(tmp_path, array))
        assert table["v"].is_null().to_pylist() == [False, True, False, True]
        assert faults == {1: "v has more than 1,000 bytes; raise PARQUETRY_MAX_CELL_BYTES to take it"}


def test_rows_beyond_the_limit_are_refused_before_they_are_read(tmp_path, small_limits):
    pq.write_table(
        pa.table({"id": [1, 2], "v": ["y" * 50_000, "z" * 50_000]}), tmp_path / "a.parquet", use_dictionary=False
    )
    with pytest.raises(
        UnreadableFileError, match=r"row group 0 has 100,\d+ bytes in 2 rows, and a row may have 10,000"
    ):
        find_inputs(InputSpec(path=str(tmp_path)))
    assert find_inputs(InputSpec(path=str(tmp_path), columns=["id"])).num_rows == 2


def test_a_list_of_a_billion_nulls_is_refused_by_its_footer(tmp_path, small_limits):
    lists = pa.ListArray.from_arrays(pa.array([0, 1_000_000], pa.int32()), pa.nulls(1_000_000, pa.int8()))
    pq.write_table(pa.table({"v": lists}), tmp_path / "a.parquet")
    with pytest.raises(UnreadableFileError, match="PARQUETRY_MAX_ROW_BYTES"):
        find_inputs(InputSpec(path=str(tmp_path)))


def test_the_index_of_pandas_and_the_numbers_of_fields_survive(tmp_path):
    index = {
        "index_columns": ["key", {"kind": "range"}],
        "columns": [{"name": None, "field_name": "key"}, {"name": "gone", "field_name": "gone"}],
    }
    schema = pa.schema([
        pa.field("text", pa.string(), metadata={"PARQUET:field_id": "7", "unit": "words"}),
        pa.field("key", pa.int64()),
        pa.field("gone", pa.int64()),
    ], metadata={"pandas": json.dumps(index)})  # fmt: skip
    pq.write_table(pa.table({"text": ["x"], "key": [5], "gone": [1]}, schema=schema), tmp_path / "a.parquet")
    table = find_inputs(InputSpec(path=str(tmp_path), columns=["text", "key"]))
    assert table.schema.field("text").metadata[b"PARQUET:field_id"] == b"7"
    assert table.schema.field("text").metadata[b"unit"] == b"words"
    found = json.loads(table.schema.metadata[b"pandas"])
    assert found == {"index_columns": ["key"], "columns": [{"name": None, "field_name": "key"}]}


def test_wide_tables_take_no_more_lookups_than_columns(tmp_path):
    """Reading is linear: twice the columns are twice the work, counted in calls and not in time."""
    import cProfile
    import pstats

    def calls(width: int) -> int:
        path = tmp_path / f"{width}.parquet"
        pq.write_table(pa.table({"text": ["a"] * 64, **{f"c{i}": [1.0] * 64 for i in range(width)}}), path)
        profile = cProfile.Profile()
        record = make_record([path])
        with profile:
            list(read_shard(record, record.shard_plan.shard(0)))
        return pstats.Stats(profile).total_calls

    assert calls(1600) < 2.5 * calls(800)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_page_that_is_not_what_was_written_is_refused(tmp_path, dictionary):
    path = tmp_path / "a.parquet"
    table = pa.table({"v": [f"hello{i}" for i in range(1000)]})
    pq.write_table(table, path, compression="none", write_page_checksum=True, use_dictionary=dictionary)
    path.write_bytes(path.read_bytes().replace(b"hello500", b"hallo500"))
    with pytest.raises(UnreadableFileError, match="CRC checksum verification failed"):
        read(path)


DAY = 86_400 * 10**9
REFUSED = "v is not valid UTF-8"
#: kinds of values that Parquet may hold, and what becomes of them in a prompt
KINDS = [
    (pa.array([1, None], pa.decimal256(70, 1)), ["1.0", None]),
    (pa.array([1, None], pa.duration("ns")), ["0:00:00.000000001", None]),
    (pa.array([DAY - 1, None], pa.time64("ns")), ["23:59:59.999999999", None]),
    (pa.array([b"\xff", b"ok", None], pa.binary_view()), [REFUSED, "ok", None]),
    (pa.array([b"\xff" * 4, b"okok"], pa.binary(4)), [REFUSED, "okok"]),
    (pa.array([bytes(16), None], pa.uuid()), ["00000000-0000-0000-0000-000000000000", None]),
    (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), [True, None]),
    (pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "a", "b"), pa.array([b"x", None])), ["x", None]),
    (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), [{"k": 1}, None]),
    (pa.array([[(1, "x")]], pa.map_(pa.timestamp("ns"), pa.string())), [{"1970-01-01T00:00:00.000000001": "x"}]),
    (pa.array([{"a.b": 1, "c": {"d": [1]}}, None]), [{"a.b": 1, "c": {"d": [1]}}, None]),
    (pa.array([[1], None, [2]], pa.list_view(pa.int64())), [[1], None, [2]]),
    (pa.array([2**31 - 1, None], pa.date32()), ["5881580-07-11", None]),
    (pa.array([2**62], pa.timestamp("us")), ["148108-07-06T14:00:27.387904"]),
    (pa.array([1], pa.timestamp("ns", "Europe/Berlin")), ["1970-01-01T01:00:00.000000001+01:00"]),
    (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    (pa.array([1.5, None], pa.float16()), [1.5, None]),
    (pa.nulls(2), [None, None]),
    (pa.array([[None], []], pa.list_(pa.null())), [[None], []]),
    (pa.array([1, None], pa.timestamp("ns")).dictionary_encode(), ["1970-01-01T00:00:00.000000001", None]),
    (pa.array(["a", None]).dictionary_encode(), ["a", None]),
]


@pytest.mark.parametrize(("array", "expected"), KINDS, ids=[str(array.type)[:40] for array, _ in KINDS])
def test_every_kind_of_value(tmp_path, array, expected):
    table, faults = read(*files(tmp_path, array), prompt={"template": "{{ v }}"})
    assert faults == {}
    found = cells("v", table["v"].combine_chunks())
    assert [str(cell) if isinstance(cell, RowError) else cell for cell in found] == expected
    # polars refuses a whole file for a view of lists
    assert not pa.types.is_list_view(table.schema.field("v").type)


def test_no_column_at_all_still_counts_rows(tmp_path):
    files(tmp_path, pa.array([1, 2, 3]))
    record = make_record([tmp_path / "0.parquet"], prompt={"template": "x"}, output={"path": "out", "keep": []})
    assert [rows.num_rows for rows in read_shard(record, record.shard_plan.shard(0))] == [3]
