from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.api.job import Job
from parquetry.output import NoOutputError, head, read_output, repaired_cells, ways_to_read
from parquetry.workers.shards.shard_progress import RowCounts
from parquetry.workers.shards.writer import PartWriter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def output(tmp_path):
    """Three parts written out of order, between files that are no parts."""
    for shard in (10, 2, 0):
        rows = pa.table({"row": [shard * 2, shard * 2 + 1], "output": ["a", None]})
        rows = rows.replace_schema_metadata({"parquetry.shard": str(shard)})
        pq.write_table(rows, tmp_path / f"part-{shard:08d}.parquet")
    attempts = tmp_path / "_attempts"
    attempts.mkdir()
    (attempts / "part-00000001.7.parquet").write_bytes(b"half")
    (tmp_path / "part-00000003.parquet.tmp").write_bytes(b"half")
    (tmp_path / "_job.json").write_text("{}")
    return str(tmp_path)


def test_parts_come_in_row_order_and_nothing_else_does(output):
    assert read_output(output)["row"].to_pylist() == [0, 1, 4, 5, 20, 21]


def test_columns_may_be_chosen(output):
    assert read_output(output, ["output"]).column_names == ["output"]


def test_no_part_yet(tmp_path):
    with pytest.raises(NoOutputError):
        read_output(str(tmp_path))
    assert head(str(tmp_path), 3) is None


def test_head_reads_the_first_part(output):
    assert head(output, 1)["row"].to_pylist() == [0]


def write_parts(folder, **columns) -> Job:
    """A job of one part a row."""
    table = pa.table(columns)
    for shard in range(table.num_rows):
        writer = PartWriter(folder / f"part-{shard:08d}.parquet", table.schema, {"shard": str(shard)})
        writer.write(table.slice(shard, 1).to_batches()[0])
        writer.close(RowCounts(rows=1), {"note": shard} if shard else {})
    return Job("job-0123456789ab", str(folder), None)


def test_a_job_as_a_frame_of_pandas_has_the_index_of_its_input(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    given = pandas.DataFrame({"output": ["a", None, "c"]}, index=pandas.Index(["x", "y", "z"], name="key"))
    table = pa.Table.from_pandas(given)
    job = write_parts(tmp_path, **{name: table[name] for name in table.column_names})
    assert job.to_pandas()["output"].fillna("").tolist() == ["a", "", "c"]
    (tmp_path / "indexed").mkdir()
    writer = PartWriter(tmp_path / "indexed" / "part-00000000.parquet", table.schema, {})
    writer.write(table.to_batches()[0])
    writer.close(RowCounts(rows=3))
    pandas.testing.assert_frame_equal(Job("job-0123456789ab", str(tmp_path / "indexed"), None).to_pandas(), given)


def test_a_job_as_a_frame_of_polars(tmp_path):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    job = write_parts(tmp_path, output=["a", None, "c"], row=[0, 1, 2])
    assert job.to_polars().equals(polars.DataFrame({"output": ["a", None, "c"], "row": [0, 1, 2]}))
    assert job.to_polars(["row"]).columns == ["row"]


def test_repaired_cells_are_counted_over_all_parts(tmp_path):
    write_parts(tmp_path, note=["a", "b", "c"])
    assert repaired_cells(str(tmp_path)) == {"note": 3}


@pytest.mark.parametrize("page", ["README.md", "docs/jobs.md"])
def test_pages_say_how_to_read_the_output_as_a_run_does(page):
    text = (ROOT / page).read_text()
    assert all(f"{way}\n" in text for way in ways_to_read("out").values())
