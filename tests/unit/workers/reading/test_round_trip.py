"""Random tables, written by every library that people use, in and out again: equal row for row."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parquetry.workers.preparation.cells import cells
from parquetry.workers.shards.reader import input_schema, read_shard
from parquetry.workers.shards.shard_progress import RowCounts
from parquetry.workers.shards.writer import PartWriter
from tests.unit.workers.workers_records import make_record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
#: types of columns with strategies for their values
COLUMNS = {
    "text": (pa.string(), TEXT),
    "large": (pa.large_string(), TEXT),
    "integer": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "small": (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    "number": (pa.float64(), st.floats(allow_nan=False)),
    "flag": (pa.bool_(), st.booleans()),
    "day": (pa.date32(), st.dates(date(1700, 1, 1), date(2200, 1, 1))),
    "micro": (pa.timestamp("us"), TIMES),
    "aware": (pa.timestamp("us", "UTC"), TIMES),
    "price": (pa.decimal128(18, 3), st.decimals(-(10**12), 10**12, places=3)),
    "bytes": (pa.binary(), st.binary(max_size=10)),
    "list": (pa.list_(pa.int64()), st.lists(st.integers(-5, 5), max_size=4)),
    "struct": (
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        st.fixed_dictionaries({"a": st.integers(-5, 5), "b": TEXT}),
    ),
    "nested": (pa.list_(pa.struct([("k", pa.string())])), st.lists(st.fixed_dictionaries({"k": TEXT}), max_size=3)),
}  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Up to 30 rows of some columns, nulls among them."""
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=5, unique=True))
    num_rows = draw(st.integers(1, 30))
    columns = {}
    for name in names:
        kind, values = COLUMNS[name]
        cells = draw(st.lists(st.none() | values, min_size=num_rows, max_size=num_rows))
        columns[name] = pa.array(cells, kind)
    return pa.table(columns)


def with_pyarrow(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=7)


def with_polars(table: pa.Table, path: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    polars.from_arrow(table).write_parquet(path)


def with_duckdb(table: pa.Table, path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    with duckdb.connect() as connection:
        connection.register("given", table)
        connection.execute(f"copy given to '{path}' (format parquet)")


def with_pandas(table: pa.Table, path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    table.to_pandas().to_parquet(path)


def plain(value: object) -> object:
    """The value in a form that does not depend on which library made it."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, Decimal) and value == int(value) else value


def rows_of(table: pa.Table) -> list[dict]:
    return [{key: plain(value) for key, value in row.items()} for row in table.to_pylist()]


@pytest.mark.parametrize("write", [with_pyarrow, with_polars, with_duckdb, with_pandas])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables())
def test_in_and_out(tmp_path, write: Callable[[pa.Table, Path], None], table: pa.Table):
    folder = tmp_path / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(table, folder / "a.parquet")
    written = pq.read_table(folder / "a.parquet")
    keep = {"path": "out", "keep": written.column_names}
    record = make_record([folder / "a.parquet"], prompt={"template": "x"}, output=keep)
    schema = input_schema(record)
    out = PartWriter(folder / "part-00000000.parquet", schema, {})
    read = list(read_shard(record, record.shard_plan.shard(0)))
    assert not any(rows.faults for rows in read)
    for rows in read:
        for name in rows.batch.schema.names:
            assert len(cells(name, rows.batch[name])) == rows.num_rows
        out.write(rows.batch)
    out.close(RowCounts())
    expected = rows_of(written)
    assert rows_of(pq.read_table(folder / "part-00000000.parquet")) == expected
    for library, found in read_by_others(folder / "part-00000000.parquet").items():
        assert found == len(expected), library


def read_by_others(path: Path) -> dict[str, int]:
    """Rows that the libraries installed here find in a part."""
    found = {}
    for name, read in OTHERS.items():
        try:
            module = __import__(name)
        except ImportError:
            continue
        found[name] = len(read(module, str(path)))
    return found


OTHERS = {
    "polars": lambda polars, path: polars.read_parquet(path),
    "duckdb": lambda duckdb, path: duckdb.connect().execute(f"from '{path}'").fetchall(),
    "pandas": lambda pandas, path: pandas.read_parquet(path),
}
