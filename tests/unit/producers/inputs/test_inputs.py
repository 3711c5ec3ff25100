"""Inputs: what is found, in which order, with which columns; and what is refused, naming the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.producers.inputs.listing import Source
from parquetry.schemas import location as location_module
from parquetry.schemas.errors import (
    BadInputError,
    EmptyInputError,
    InputNotFoundError,
    LocationError,
    MixedSchemasError,
    UnreadableFileError,
)
from parquetry.schemas.location import Location
from parquetry.schemas.settings import load_settings
from parquetry.schemas.spec.job import InputSpec


def write(path: Path, rows: int = 3, *, group: int = 1000, **columns: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns or {"id": list(range(rows)), "text": ["x"] * rows})
    pq.write_table(table, path, row_group_size=group)
    return path


def find(*paths: Path | str, **spec):
    texts = [str(path) for path in paths]
    return find_inputs(InputSpec(path=texts[0] if len(texts) == 1 else texts, **spec))


def names(table, folder: Path) -> list[str]:
    return [Path(file.path).relative_to(folder).as_posix() for file in table.files]


def test_one_file(tmp_path):
    file = write(tmp_path / "a.parquet", 10, group=4)
    table = find(file)
    assert table.row_group_rows == [[4, 4, 2]]
    assert table.num_rows == 10
    assert table.schema == pa.schema({"id": pa.int64(), "text": pa.string()})
    assert table.files[0].size == file.stat().st_size
    assert table.files[0].etag
    assert table.row_bytes > 0


def test_a_folder_is_read_to_its_depth_in_path_order(tmp_path):
    for name in ("b.parquet", "a/z.parquet", "a/b/c.parquet", "_SUCCESS", "_old/x.parquet", ".tmp/y.parquet"):
        write(tmp_path / name)
    for name in ("README.md", ".hidden.parquet", "_meta.parquet", "a.parquet.crc"):
        (tmp_path / name).write_text("not parquet")
    assert names(find(tmp_path), tmp_path) == ["a/b/c.parquet", "a/z.parquet", "b.parquet"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.parquet", ["a1.parquet", "a2.parquet"]),
        ("a[1].parquet", ["a1.parquet"]),
        ("a[!1].parquet", ["a2.parquet"]),
        ("a?.parquet", ["a1.parquet", "a2.parquet"]),
        ("**/*.parquet", ["a1.parquet", "a2.parquet", "s/b.parquet", "s/t/c.parquet"]),
        ("s/**", ["s/b.parquet", "s/t/c.parquet"]),
        ("*/b.parquet", ["s/b.parquet"]),
        ("s/*/c.*", ["s/t/c.parquet"]),
    ],
)
def test_globs(tmp_path, monkeypatch, pattern, found):
    for name in ("a1.parquet", "a2.parquet", "s/b.parquet", "s/t/c.parquet", "_x/d.parquet"):
        write(tmp_path / name)
    assert names(find(f"{tmp_path}/{pattern}"), tmp_path) == found
    monkeypatch.chdir(tmp_path)
    assert names(find(pattern), tmp_path) == found


def test_a_name_with_brackets_is_itself(tmp_path):
    write(tmp_path / "a[1].parquet")
    assert names(find(tmp_path / "a[1].parquet"), tmp_path) == ["a[1].parquet"]


def test_a_list_gives_each_file_once_in_path_order(tmp_path):
    write(tmp_path / "b.parquet")
    write(tmp_path / "a" / "c.parquet")
    table = find(tmp_path / "b.parquet", tmp_path / "a", f"{tmp_path}/*.parquet")
    assert names(table, tmp_path) == ["a/c.parquet", "b.parquet"]


def test_hive_partitions_become_string_columns(tmp_path):
    write(tmp_path / "lang=de" / "year=2024" / "a.parquet")
    write(tmp_path / "lang=en%2Fus" / "year=2025" / "b.parquet")
    table = find(tmp_path)
    assert table.schema.names == ["id", "text", "lang", "year"]
    assert table.schema.field("year").type == pa.string()
    assert [file.partitions for file in table.files] == [
        {"lang": "de", "year": "2024"},
        {"lang": "en/us", "year": "2025"},
    ]


def test_a_column_in_the_file_wins_over_its_partition(tmp_path):
    write(tmp_path / "lang=de" / "a.parquet", text=["x"], lang=["German"])
    table = find(tmp_path)
    assert table.schema.names == ["text", "lang"]
    assert table.files[0].partitions == {}


def test_a_file_outside_the_partitions_has_null_in_their_columns(tmp_path):
    write(tmp_path / "lang=de" / "a.parquet")
    write(tmp_path / "b.parquet")
    table = find(tmp_path)
    assert table.schema.names == ["id", "text", "lang"]
    assert [file.partitions for file in table.files] == [{}, {"lang": "de"}]
    with pytest.raises(MixedSchemasError, match=r"/b\.parquet: it lacks column 'lang', which the job needs"):
        find_inputs(InputSpec(path=str(tmp_path)), needed=["lang"])


def test_text_files_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x\\u0000y", "n": 1}\n\n{"text": null, "n": 2}\n')
    (tmp_path / "b.csv").write_text('text,n\n"two\nlines",1\n,2\n"a ""quote""",3\n')
    (tmp_path / "c.csv").write_text("")
    table = find(f"{tmp_path}/*")
    assert [file.num_rows for file in table.files] == [2, 3]
    assert table.row_group_rows == [[2], [3]]
    assert table.schema == pa.schema({"text": pa.string(), "n": pa.int64()})


def test_columns_are_projected_before_files_are_compared(tmp_path):
    write(tmp_path / "a.parquet", text=["x"], other=[1], id=[1])
    write(tmp_path / "b.parquet", id=[2], other=["y"], text=["z"])
    with pytest.raises(MixedSchemasError, match=r"b\.parquet: column 'other' is string here and int64 in"):
        find(tmp_path)
    assert find(tmp_path, columns=["id", "text", "gone"]).schema.names == ["id", "text"]


def test_row_bytes_are_those_of_the_columns_read(tmp_path):
    write(tmp_path / "a.parquet", id=list(range(1000)), text=[f"{n:0500}" for n in range(1000)])
    assert find(tmp_path, columns=["id"]).row_bytes < 20
    assert find(tmp_path).row_bytes > 500


def test_mixed_schemas_name_every_difference(tmp_path):
    write(tmp_path / "a.parquet", id=[1], text=["x"])
    write(tmp_path / "b.parquet", id=["1"], note=["x"])
    with pytest.raises(MixedSchemasError) as refusal:
        find_inputs(InputSpec(path=str(tmp_path)), needed=["text"])
    message = str(refusal.value)
    assert f"{tmp_path}/b.parquet: " in message
    for part in (f"column 'id' is string here and int64 in {tmp_path}/a.parquet", "lacks column 'text'"):
        assert part in message
    assert "leave it out with input.columns" in message


def test_many_differing_files_are_counted_not_listed(tmp_path):
    write(tmp_path / "a.parquet", id=[1])
    for number in range(30):
        write(tmp_path / f"b{number:02}.parquet", id=["1"])
    with pytest.raises(MixedSchemasError, match="and 25 more files"):
        find(tmp_path)


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "gone.parquet", tmp_path / "empty", f"{tmp_path}/*.parquet", f"{tmp_path}/gone/**"):
        with pytest.raises(InputNotFoundError, match="No input file matches"):
            find(path)
    with pytest.raises(InputNotFoundError, match=r"gone\.parquet"):
        find(write(tmp_path / "a.parquet"), tmp_path / "gone.parquet")
    with pytest.raises(InputNotFoundError):
        find_inputs(InputSpec(path=[]))


def test_no_rows(tmp_path):
    write(tmp_path / "a.parquet", 0)
    with pytest.raises(EmptyInputError, match="has no rows"):
        find(tmp_path)


def test_a_file_without_rows_among_others_keeps_its_place(tmp_path):
    write(tmp_path / "a.parquet", 2)
    write(tmp_path / "b.parquet", 2).unlink()
    pq.write_table(pa.schema({"id": pa.int64(), "text": pa.string()}).empty_table(), tmp_path / "b.parquet")
    write(tmp_path / "c.parquet", 3)
    assert [file.num_rows for file in find(tmp_path).files] == [2, 0, 3]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.parquet", b"PAR1 and nothing more", "no whole Parquet file: cut short"),
        ("bad.parquet", b"", "it is empty, so it is no Parquet file"),
        ("bad.parquet", b"PARE" + bytes(8) + b"PARE", "it is encrypted; write it without encryption"),
        ("bad.jsonl", b"not json\n", "line 1: it is not valid JSON"),
        ("bad.jsonl", b"[1, 2]\n", "one JSON object a line instead of an array"),
        ("bad.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16"),
        ("bad.csv", b"a,b\n1\n", "line 2: it has 1 field, and the header has 2"),
        ("bad.csv", b'a,"b\n1\n', "line 1, its header, is malformed: its quote is not closed"),
        ("bad.csv", b"a,a\n1,2\n", "more than one column named 'a'"),
        ("bad.csv", b"a;b\r1;2\r", "its lines end in carriage returns alone"),
        ("bad.csv", "a,\u00e9\n1,2\n".encode("latin-1"), "its header is not valid UTF-8; save the file as UTF-8"),
        ("bad.csv", b"PAR1", "its content is Parquet"),
        ("bad.csv", b"PK\3\4", "its content is a zip archive, as Excel's files are"),
        ("bad.csv.gz", b"x", "it is cut short or damaged; copy it again"),
        ("bad.csv.gz", gzip.compress(b"a\n1\n", mtime=0)[:-3], "it is cut short or damaged; copy it again"),
        ("bad.csv.gz", b"no gzip at all", "it is damaged or not compressed as its name says"),
        ("bad.jsonl", b'{"a": 1}\r{"a": 2}\r', "its lines end in carriage returns alone"),
        ("bad.jsonl", b'[{"a": 1},\n{"a": 2}]\n', "it is one JSON array; write one object a line (jq -c '.[]')"),
        ("bad.jsonl", b'{\n"a": 1\n}\n', "one JSON object over many lines"),
        ("bad.jsonl", '{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        ("bad.parquet.gz", gzip.compress(b"PAR1", mtime=0), "compressed as a whole"),
        ("bad.txt", b"x", "ends in none of"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFileError) as refusal:
        find(tmp_path / name if name == "bad.txt" else tmp_path)
    assert f"{tmp_path}/{name}" in str(refusal.value)
    assert reason in str(refusal.value)


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UnreadableFileError, match="more than one column named 'a'"):
        find(tmp_path)


def test_names_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a\udcff.parquet").write_bytes(write(tmp_path / "a.parquet").read_bytes())
    with pytest.raises(LocationError, match="not UTF-8"):
        find(tmp_path)


def test_a_link_out_of_the_allowed_roots_is_refused(tmp_path, monkeypatch):
    secret = write(tmp_path / "secret" / "a.parquet")
    write(tmp_path / "in" / "a.parquet")
    monkeypatch.setattr(location_module, "settings", lambda: load_settings(allowed_roots=[f"{tmp_path}/in"]))
    find(tmp_path / "in")
    (tmp_path / "in" / "b.parquet").symlink_to(secret)
    with pytest.raises(LocationError, match="outside the allowed roots"):
        find(tmp_path / "in")


def test_a_linked_file_keeps_its_name(tmp_path):
    write(tmp_path / "store" / "c0ffee")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").symlink_to(tmp_path / "store" / "c0ffee")
    assert names(find(tmp_path / "in"), tmp_path) == ["in/a.parquet"]
    assert names(find(tmp_path / "in" / "a.parquet"), tmp_path) == ["in/a.parquet"]


@pytest.mark.parametrize("path", ["http://h/a.parquet", "s3://b*/a", "/x\x00.parquet", "/x\x00/*.parquet", "s3:/b/*"])
def test_hostile_paths(path):
    with pytest.raises(BadInputError):
        find(path)


@pytest.mark.parametrize(
    ("source", "output", "holds"),
    [
        ("/data", "/data/out", True),
        ("/data", "/data", True),
        ("/data", "/database", False),
        ("/data/a.parquet", "/data/out", False),
        ("/data/*.parquet", "/data/out", False),
        ("/data/*.parquet", "/data", True),
        ("/data/**/*.parquet", "/data/out", True),
        ("/data/**/*.parquet", "/data/_out", False),
        ("/data/*/part-*.parquet", "/data/out", True),
        ("/data/*.jsonl", "/data", False),
        ("s3://bucket/data", "s3://bucket/data/out", True),
        ("s3://bucket", "s3://bucket/out", True),
        ("s3://bucket/*.parquet", "s3://bucket/out", False),
    ],
)
def test_which_outputs_would_become_input(source, output, holds):
    assert Source.parse(source).may_hold(Location.parse(output)) is holds
