import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.output import NoOutputError, head, read_output


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
