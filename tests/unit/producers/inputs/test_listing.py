"""What of a folder is input, what is left out, and that nobody is left to guess."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.producers.inputs.listing import find_files
from parquetry.schemas.errors import InputNotFoundError, TableFormatError, UnreadableFileError
from parquetry.schemas.spec.job import InputSpec
from tests.unit.producers.inputs.test_inputs import names, write


def found(*paths: Path | str, under: Path) -> list[str]:
    texts = [str(path) for path in paths]
    return [Path(file.path).relative_to(under).as_posix() for file in find_files(texts).files]


def test_a_partition_may_begin_with_an_underscore(tmp_path):
    write(tmp_path / "_date=2024-01-01" / "a.parquet")
    write(tmp_path / "_temporary" / "b.parquet")
    listing = find_files(str(tmp_path))
    assert [file.partitions for file in listing.files] == [{"_date": "2024-01-01"}]
    assert listing.notes == ("left out: 1 file (1 with .parquet), whose name, or whose folder's, begins with _ or .",)


@pytest.mark.parametrize(
    "name", ["a.pq", "a.PARQUET", "a.Parquet", "a.parquet.gzip", "a.snappy.parquet", "part-00000", "20240101_000_ab12c"]
)
def test_parquet_by_any_name(tmp_path, name):
    write(tmp_path / "in" / "x.parquet").rename(tmp_path / "in" / name)
    assert found(tmp_path / "in", under=tmp_path) == [f"in/{name}"]
    assert found(tmp_path / "in" / name, under=tmp_path) == [f"in/{name}"]
    assert find_inputs(InputSpec(path=str(tmp_path / "in"))).num_rows == 3


@pytest.mark.parametrize("name", ["a.ndjson", "a.json", "a.JSONL", "part-00000", "000000_0"])
def test_json_lines_by_any_name(tmp_path, name):
    (tmp_path / name).write_text('{"text": "x"}\n{"text": "y"}\n')
    assert find_inputs(InputSpec(path=str(tmp_path))).num_rows == 2
    assert find_inputs(InputSpec(path=str(tmp_path / name))).num_rows == 2


def test_json_that_is_no_rows_is_left_out(tmp_path):
    write(tmp_path / "a.parquet")
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    (tmp_path / "pretty.json").write_text('{\n  "features": {}\n}')
    listing = find_files(str(tmp_path))
    assert [file.location.name for file in listing.files] == ["a.parquet"]
    assert list(listing.left_out.values()) == [1, 1]
    assert any("whose JSON is not one object a line" in note for note in listing.notes)
    with pytest.raises(UnreadableFileError, match=r"its JSON is not one object a line; write it so \(jq -c"):
        find_files(str(tmp_path / "pretty.json"))


def test_files_without_a_suffix_are_read_beside_others(tmp_path):
    write(tmp_path / "a.parquet")
    (tmp_path / "b").write_text('{"id": 1, "text": "x"}\n')
    assert found(tmp_path, under=tmp_path) == ["a.parquet", "b"]


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    write(tmp_path / "a.parquet")
    for name in ("b.txt", "c.txt", "d.orc", "_SUCCESS", "a.parquet.crc", "_committed_1", ".DS_Store"):
        (tmp_path / name).write_text("x")
    (note,) = find_inputs(InputSpec(path=str(tmp_path))).notes
    assert note.startswith("left out: 3 files (2 with .txt, 1 with .orc), of no format that is read here")


def test_nothing_that_fits_says_what_is_there(tmp_path):
    (tmp_path / "a.xlsx").write_text("x")
    write(tmp_path / "_old" / "b.parquet")
    with pytest.raises(InputNotFoundError) as refusal:
        find_files(str(tmp_path))
    assert "there are only 1 file (1 with .parquet), whose name" in str(refusal.value)
    assert "1 file (1 with .xlsx), of no format that is read here" in str(refusal.value)


def test_a_null_partition_is_null_and_keys_are_unescaped(tmp_path):
    write(tmp_path / "my%20key=__HIVE_DEFAULT_PARTITION__" / "a.parquet")
    write(tmp_path / "my%20key=a%2Fb" / "a.parquet")
    table = find_inputs(InputSpec(path=str(tmp_path)))
    assert [file.partitions for file in table.files] == [{"my key": None}, {"my key": "a/b"}]
    assert table.schema.names[-1] == "my key"


def test_one_partition_and_single_files_keep_their_columns(tmp_path):
    file = write(tmp_path / "t" / "year=2024" / "lang=de" / "a.parquet")
    for path in (file, file.parent, file.parent.parent, tmp_path / "t", f"{file.parent}/*.parquet"):
        assert [f.partitions for f in find_files(str(path)).files] == [{"year": "2024", "lang": "de"}]


def test_a_folder_far_above_is_no_partition(tmp_path):
    file = write(tmp_path / "run=1" / "data" / "a.parquet")
    assert find_files(str(file)).files[0].partitions == {}


def write_delta(folder: Path) -> Path:
    """Two files, of which the log counts only the second."""
    write(folder / "day=1" / "old.parquet", text=["old"])
    write(folder / "day=1" / "new.parquet", text=["new"])
    (folder / "_delta_log").mkdir()
    actions = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": "0",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps(
                    {
                        "type": "struct",
                        "fields": [
                            {"name": name, "type": "string", "nullable": True, "metadata": {}}
                            for name in ("text", "day")
                        ],
                    }
                ),
                "partitionColumns": ["day"],
                "configuration": {},
                "createdTime": 0,
            }
        },
        {
            "add": {
                "path": "day=1/new.parquet",
                "partitionValues": {"day": "1"},
                "size": (folder / "day=1" / "new.parquet").stat().st_size,
                "modificationTime": 0,
                "dataChange": True,
            }
        },
    ]
    log = folder / "_delta_log" / "00000000000000000000.json"
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    return folder


def of_delta(folder: Path) -> list[str]:
    """Every way to name something of the table."""
    return [
        str(folder),
        str(folder.parent),
        f"{folder}/**/*.parquet",
        str(folder / "day=1"),
        str(folder / "day=1" / "old.parquet"),
    ]


@pytest.mark.parametrize("place", range(5))
def test_a_delta_table_is_refused_where_the_library_is_missing(tmp_path, monkeypatch, place):
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    path = of_delta(write_delta(tmp_path / "lake" / "table"))[place]
    with pytest.raises(TableFormatError, match=r"belongs to a table of Delta.*pip install 'parquetry\[tables\]'"):
        find_files(path)


def test_a_delta_table_is_read_by_its_live_files(tmp_path):
    pytest.importorskip("deltalake", reason="the tables extra is not installed")
    paths = of_delta(write_delta(tmp_path / "lake" / "table"))
    for path in paths[:4]:
        listing = find_files(path)
        assert [file.location.name for file in listing.files] == ["new.parquet"]
        assert listing.files[0].partitions == {"day": "1"}
        assert "left out: 1 file (1 with .parquet), that the table's log no longer counts" in listing.notes
    with pytest.raises(InputNotFoundError, match="that the table's log no longer counts"):
        find_files(paths[4])


def test_delta_tables_that_files_do_not_show_are_refused(tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="the tables extra is not installed")
    folder = tmp_path / "table"
    deltalake.write_deltalake(
        str(folder), pa.table({"text": ["a"]}), configuration={"delta.enableDeletionVectors": "true"}
    )
    with pytest.raises(TableFormatError, match="it uses deletion vectors"):
        find_files(str(folder))


def test_links_do_not_lead_around_a_table(tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="the tables extra is not installed")
    for text in ("old", "new"):
        deltalake.write_deltalake(str(tmp_path / "real"), pa.table({"text": [text]}), mode="overwrite")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "table").symlink_to(tmp_path / "real")
    (tmp_path / "files").mkdir()
    for number, file in enumerate((tmp_path / "real").glob("*.parquet")):
        (tmp_path / "files" / f"{number}.parquet").symlink_to(file)
    for folder in ("in", "in/table", "files"):
        (file,) = find_files(str(tmp_path / folder)).files
        assert pq.read_table(file.path)["text"].to_pylist() == ["new"]


def test_a_delta_table_that_lost_a_live_file_is_refused(tmp_path):
    deltalake = pytest.importorskip("deltalake", reason="the tables extra is not installed")
    folder = tmp_path / "table"
    for text in ("a", "b"):
        deltalake.write_deltalake(str(folder), pa.table({"text": [text]}), mode="append")
    next(folder.glob("*.parquet")).unlink()
    with pytest.raises(TableFormatError, match=r"its file .*\.parquet is gone; restore it"):
        find_files(str(folder))


def test_a_delta_table_whose_paths_do_not_name_its_partitions_is_refused(tmp_path):
    pytest.importorskip("deltalake", reason="the tables extra is not installed")
    folder = write_delta(tmp_path / "table")
    (folder / "Xy").mkdir()
    (folder / "day=1" / "new.parquet").rename(folder / "Xy" / "new.parquet")
    log = folder / "_delta_log" / "00000000000000000000.json"
    log.write_text(log.read_text().replace("day=1/new.parquet", "Xy/new.parquet"))
    with pytest.raises(TableFormatError, match="it uses partitions that its paths do not name"):
        find_files(str(folder))


def test_a_file_has_one_name(tmp_path):
    blob = write(tmp_path / "in" / "blobs" / "c0ffee")
    for name in ("snapshots/1/a.parquet", "lang=de/a.parquet"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).symlink_to(blob)
    listing = find_files([str(tmp_path / "in"), str(tmp_path / "in" / ".." / "in"), f"{tmp_path}/in/**/*.parquet"])
    assert [file.partitions for file in listing.files] == [{"lang": "de"}]
    assert "another name of which is listed already" in listing.notes[-1]


def test_an_iceberg_table_is_read_by_its_live_files(tmp_path):
    pytest.importorskip("pyiceberg.catalog.sql", reason="the tables extra is not installed")
    with iceberg_table(tmp_path) as table:
        root = Path(table.location().removeprefix("file://"))
    listing = find_files(str(root))
    assert [pq.read_table(file.path)["text"].to_pylist() for file in listing.files] == [["new"]]
    assert [file.path for file in find_files(str(root / "data")).files] == [file.path for file in listing.files]
    assert listing.left_out


@pytest.mark.parametrize("change", ["rename", "drop"])
def test_iceberg_columns_that_files_do_not_show_are_refused(tmp_path, change):
    pytest.importorskip("pyiceberg.catalog.sql", reason="the tables extra is not installed")
    with iceberg_table(tmp_path) as table, table.update_schema() as update:
        update.rename_column("text", "body") if change == "rename" else update.delete_column("note")
    with pytest.raises(TableFormatError, match="it uses columns that were renamed or dropped"):
        find_files(str(tmp_path / "warehouse"))


@contextmanager
def iceberg_table(folder: Path):
    """A table of which every row was overwritten once, and its catalog for as long."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/c.db", warehouse=f"file://{folder}/warehouse")
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", schema=pa.schema({"text": pa.string(), "note": pa.string()}))
    table.append(pa.table({"text": ["old"], "note": ["x"]}))
    table.overwrite(pa.table({"text": ["new"], "note": ["x"]}))
    try:
        yield table
    finally:
        catalog.engine.dispose()


def test_an_iceberg_table_is_refused_where_the_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg.table", None)
    write(tmp_path / "data" / "a.parquet")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "v1.metadata.json").write_text("{}")
    for path in (tmp_path, tmp_path / "data", tmp_path / "data" / "a.parquet"):
        with pytest.raises(TableFormatError, match="belongs to a table of Iceberg"):
            find_files(str(path))


@pytest.mark.parametrize("partition", ["day=1", "2024/01/01"])
def test_a_hudi_table_is_refused(tmp_path, partition):
    write(tmp_path / "t" / partition / "a.parquet")
    (tmp_path / "t" / ".hoodie").mkdir()
    (tmp_path / "t" / ".hoodie" / "hoodie.properties").write_text("x")
    for path in (tmp_path, tmp_path / "t" / partition, tmp_path / "t" / partition / "a.parquet"):
        with pytest.raises(TableFormatError, match="parquetry does not read Hudi"):
            find_files(str(path))


def test_a_folder_called_metadata_is_no_table(tmp_path):
    write(tmp_path / "metadata" / "a.parquet")
    assert found(tmp_path, under=tmp_path) == ["metadata/a.parquet"]
    assert names(find_inputs(InputSpec(path=str(tmp_path))), tmp_path) == ["metadata/a.parquet"]
