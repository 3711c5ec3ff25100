"""docs/inputs.md: each line of its tables is a case here, and each case a line."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.producers.inputs.listing import find_files
from parquetry.schemas.errors import BadInputError, InputChangedError, RowError, UnreadableFileError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import InputSpec, JobSpec
from parquetry.workers.preparation.cells import cells
from parquetry.workers.preparation.template import Template
from parquetry.workers.reading.conform import Repairs
from parquetry.workers.shards.reader import read_shard
from tests.unit.producers.inputs.test_inputs import write
from tests.unit.producers.inputs.test_listing import iceberg_table, write_delta
from tests.unit.workers.reading.test_text_files import read
from tests.unit.workers.workers_records import make_record

PAGE = Path(__file__).resolve().parents[3] / "docs/inputs.md"
#: behind this comes what was measured
LINES = re.findall(r"^\| (.+?) \| .+ \|.*\|$", PAGE.read_text().partition("## What it costs")[0], re.MULTILINE)
SITUATIONS = [line for line in LINES if line != "situation"]
CASES: dict[str, Callable[..., None]] = {}


def case(situation: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The check of the line that begins with this."""

    def keep(check: Callable[..., None]) -> Callable[..., None]:
        assert situation not in CASES
        CASES[situation] = check
        return check

    return keep


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_line_is_true(situation, tmp_path, monkeypatch):
    CASES[situation](tmp_path, monkeypatch)


def test_every_case_has_its_line():
    assert sorted(CASES) == sorted(SITUATIONS)


def names(path: Path | str) -> list[str]:
    return [file.location.name for file in find_files(str(path)).files]


def notes(path: Path) -> str:
    return " ".join(find_files(str(path)).notes)


def refusal(path: Path | str, **spec: object) -> str:
    with pytest.raises(BadInputError) as refused:
        find_inputs(InputSpec(path=str(path), **spec))
    return str(refused.value)


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def column(path: Path, name: str, **spec: object) -> list[object]:
    return read(path, **spec)[0][name].to_pylist()


def faults(*paths: Path, used: str = "text") -> dict[int, str]:
    return read(*paths, prompt={"template": "{{ " + used + " }}"})[1]


@case("a folder")
def a_folder(folder, _):
    for name in ("b.parquet", "a/z.parquet", "a/b/c.parquet"):
        write(folder / name)
    assert names(folder) == ["c.parquet", "z.parquet", "b.parquet"]


@case("names in any case, `.pq`, `.ndjson`, `.parquet.gzip`")
def names_in_any_case(folder, _):
    write(folder / "x").rename(folder / "a.PARQUET")
    write(folder / "x").rename(folder / "b.pq")
    write(folder / "x").rename(folder / "c.parquet.gzip")
    put(folder / "d.ndjson", '{"id": 1}\n')
    assert names(folder) == ["a.PARQUET", "b.pq", "c.parquet.gzip", "d.ndjson"]


@case("files without a suffix")
def without_suffix(folder, _):
    write(folder / "part-0")
    put(folder / "part-1", '{"id": 1}\n')
    put(folder / "README", "words\n")
    assert names(folder) == ["part-0", "part-1"]


@case("`.json` beside other formats")
def json_beside(folder, _):
    write(folder / "a.parquet")
    put(folder / "b.json", '{"id": 1}\n')
    assert names(folder) == ["a.parquet"] and names(folder / "b.json") == ["b.json"]
    assert "1 file (1 with .json), that may be settings" in notes(folder)


@case("files of other formats")
def other_formats(folder, _):
    write(folder / "a.parquet")
    put(folder / "b.orc", "ORC")
    assert "1 file (1 with .orc), of no format that is read here" in notes(folder)


@case("names with `_` or `.` first")
def hidden(folder, _):
    for name in ("_date=2024-01-01/a.parquet", "_old/b.parquet", ".c.parquet"):
        write(folder / name)
    assert names(folder) == ["a.parquet"] and names(folder / ".c.parquet") == [".c.parquet"]
    assert "2 files (2 with .parquet), whose name, or whose folder's, begins with _ or ." in notes(folder)


@case("nothing that can be read")
def nothing(folder, _):
    put(folder / "a.xlsx", "PK")
    assert "there are only 1 file (1 with .xlsx)" in refusal(folder)


@case("one file by several names or links")
def one_file(folder, _):
    file = write(folder / "a.parquet")
    (folder / "b.parquet").symlink_to(file)
    assert len(find_files([str(folder), str(file), f"{folder}/*.parquet"]).files) == 1
    assert "another name of which is listed already" in notes(folder)


@case("a file that changes after submit")
def changes(folder, _):
    file = write(folder / "a.parquet")
    record = make_record([file])
    write(file, 5)
    with pytest.raises(InputChangedError, match=r"a\.parquet changed after the job was submitted"):
        list(read_shard(record, record.shard_plan.shard(0)))


@case("a Delta or Iceberg table, or a part of one")
def live_files(folder, monkeypatch):
    delta = write_delta(folder / "lake" / "delta")
    paths = [folder / "lake", delta, delta / "day=1", f"{delta}/**/*.parquet"]
    try:
        __import__("deltalake"), __import__("pyiceberg.catalog.sql")
    except ImportError:
        assert "pip install 'parquetry[tables]'" in refusal(delta)
        return
    assert [names(path) for path in paths] == [["new.parquet"]] * 4
    with iceberg_table(folder) as table:
        iceberg = Path(table.location().removeprefix("file://"))
    for path in (folder / "warehouse", iceberg / "data"):
        (file,) = find_files(str(path)).files
        assert pq.read_table(file.path)["text"].to_pylist() == ["new"]
    for module in ("deltalake", "pyiceberg.table"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    assert all("pip install 'parquetry[tables]'" in refusal(table) for table in (delta, iceberg))


@case("deletion vectors, delete files, column mapping, renamed or dropped columns")
def not_honoured(folder, _):
    deltalake = pytest.importorskip("deltalake", reason="the tables extra is not installed")
    features = {"delta.enableDeletionVectors": "true"}
    deltalake.write_deltalake(str(folder / "d"), pa.table({"text": ["a"]}), configuration=features)
    assert "it uses deletion vectors" in refusal(folder / "d")
    pytest.importorskip("pyiceberg.catalog.sql", reason="the tables extra is not installed")
    with iceberg_table(folder) as table, table.update_schema() as update:
        update.rename_column("text", "body")
    assert "renamed or dropped" in refusal(folder / "warehouse")


@case("a live file that is gone")
def live_file_gone(folder, _):
    pytest.importorskip("deltalake", reason="the tables extra is not installed")
    delta = write_delta(folder / "table")
    (delta / "day=1" / "new.parquet").unlink()
    assert "new.parquet is gone; restore it" in refusal(delta)


@case("a Hudi table")
def hudi(folder, _):
    write(folder / "t" / "2024" / "a.parquet")
    put(folder / "t" / ".hoodie" / "hoodie.properties", "x")
    assert all("export the rows you want with Spark" in refusal(path) for path in (folder, folder / "t" / "2024"))


@case("Hive partitions")
def hive(folder, _):
    file = write(folder / "my%20key=a%2Fb" / "n=01" / "a.parquet")
    for path in (folder, file, file.parent):
        assert find_files(str(path)).files[0].partitions == {"my key": "a/b", "n": "01"}
    write(folder / "n=02" / "b.parquet", n=["own"])
    assert find_inputs(InputSpec(path=str(folder / "n=02"))).files[0].partitions == {}


@case("`__HIVE_DEFAULT_PARTITION__`")
def hive_null(folder, _):
    write(folder / "k=__HIVE_DEFAULT_PARTITION__" / "a.parquet")
    assert find_files(str(folder)).files[0].partitions == {"k": None}


@case("`.gz`, `.zst`, `.bz2`")
def compressed(folder, _):
    data = b'{"a": 1}\n{"a": 2}\n'
    zstd = pa.Codec("zstd").compress(data, asbytes=True)
    put(folder / "a.jsonl.gz", gzip.compress(data[:12]) + gzip.compress(data[12:]))
    put(folder / "b.jsonl.gz", zstd)
    put(folder / "c.jsonl", gzip.compress(data))
    assert [column(folder / f"{name}", "a") for name in ("a.jsonl.gz", "b.jsonl.gz", "c.jsonl")] == [[1, 2]] * 3


@case("a compressed file that is cut short")
def cut_short(folder, _):
    put(folder / "a.csv.gz", gzip.compress(b"a\n" * 1000)[:-9])
    assert "it is cut short or damaged; copy it again" in refusal(folder)


@case("CSV cells")
def csv_cells(folder, _):
    file = put(folder / "a.csv", "zip,n,price\n007,1,1.50\n123,2,0.5\n")
    assert read(file)[0].to_pydict() == {"zip": ["007", "123"], "n": [1, 2], "price": [1.5, 0.5]}
    as_text = read(file, input={"path": "x", "types": "text"})[0]
    assert as_text.to_pydict() == {"zip": ["007", "123"], "n": ["1", "2"], "price": ["1.50", "0.5"]}


@case("CSV quotes")
def csv_quotes(folder, _):
    file = put(folder / "a.csv", 'id,text\n1,"two\nlines"\n2,"open\n3,c\n')
    assert column(file, "text") == ["two\nlines", None, "c"]
    assert faults(file) == {1: "line 4 of a.csv: its quote is not closed"}


@case("a line with more or fewer fields than the header")
def ragged(folder, _):
    file = put(folder / "a.csv", "id,text\n1\n2,b\n")
    assert faults(file) == {0: "line 2 of a.csv: it has 1 field, and the header has 2"}


@case("a blank line")
def blank(folder, _):
    assert column(put(folder / "a.csv", "id,text\n1,a\n\n2,b\n"), "text") == ["a", "b"]
    assert column(put(folder / "b.jsonl", '{"text": "a"}\n\n{"text": "b"}\n'), "text") == ["a", "b"]
    assert column(put(folder / "c.csv", "text\na\n\nb\n"), "text") == ["a", None, "b"]


@case("a header with one name twice")
def header_twice(folder, _):
    put(folder / "a.csv", "id,text,id\n1,a,2\n")
    assert "more than one column named 'id'" in refusal(folder)
    assert find_inputs(InputSpec(path=str(folder), columns=["text"])).num_rows == 1


@case("JSON values")
def json_values(folder, _):
    file = put(folder / "a.jsonl", '{"d": "2024-01-01", "n": 12345678901234567890, "m": 1}\n{"m": "x"}\n')
    found = {name: read(file)[0][name].to_pylist() for name in "dnm"}
    assert found == {"d": ["2024-01-01", None], "n": [Decimal(12345678901234567890), None], "m": ["1", "x"]}


@case("a JSON key that comes late, or whose kind changes")
def late_key(folder, _):
    first = "".join(json.dumps({"v": 1, "pad": "x" * 1000}) + "\n" for _ in range(6000))
    file = put(folder / "a.jsonl", first + '{"v": 0.5, "late": "here"}\n')
    assert column(file, "v")[::6000] == [1.0, 0.5] and column(file, "late")[-1] == "here"


@case("a line that is no JSON object")
def no_object(folder, _):
    file = put(folder / "a.jsonl", '{"text": "a"}\n[1]\n{"text"\n')
    assert [fault.partition(":")[0] for fault in faults(file).values()] == ["line 2 of a.jsonl", "line 3 of a.jsonl"]
    assert find_inputs(InputSpec(path=str(folder))).malformed is not None


@case("a key twice, a number beyond a double, 100 levels of nesting")
def unfit(folder, _):
    deep = "[" * 100_000 + "]" * 100_000
    file = put(folder / "a.jsonl", f'{{"a": 1, "a": 2}}\n{{"a": 1e999}}\n{{"a": {deep}}}\n{{"a": 3}}\n')
    assert column(file, "a") == [None, None, None, 3]
    assert list(faults(file, used="a")) == [0, 1, 2]


@case("a JSON array, or one object over many lines")
def json_array(folder, _):
    assert "jq -c '.[]'" in refusal(put(folder / "a.jsonl", '[{"a": 1},\n{"a": 2}]\n'))
    assert "jq -c ." in refusal(put(folder / "b.json", '{\n"a": 1\n}\n'))


@case("UTF-16, Excel, lines that end in CR alone")
def other_text(folder, _):
    assert "UTF-16" in refusal(put(folder / "a.csv", "a\n1\n".encode("utf-16")))
    assert "Excel" in refusal(put(folder / "b.csv", b"PK\3\4"))
    assert "carriage returns alone" in refusal(put(folder / "c.csv", "a,b\r1,2\r"))


def broken(folder: Path) -> Path:
    note = pa.array([b"x\xff", b"ok"], pa.binary()).view(pa.string())
    return write(folder / "a.parquet", text=["a", "b"], note=note)


@case("text that is not UTF-8, in a column the model reads")
def broken_and_used(folder, _):
    assert faults(broken(folder), used="note") == {0: "note is not valid UTF-8"}


@case("text that is not UTF-8, in a column that is only kept")
def broken_and_kept(folder, _):
    repairs = Repairs()
    table, found = read(broken(folder), prompt={"template": "{{ text }}"}, repairs=repairs)
    assert table["note"].to_pylist() == ["x\ufffd", "ok"]
    assert (found, repairs) == ({}, {"note": 1})


@case("nanoseconds, years beyond 9999, UUIDs, decimals, durations")
def odd_values(folder, _):
    columns = {
        "ns": pa.array([1], pa.timestamp("ns")),
        "far": pa.array([3 * 10**17], pa.timestamp("us")),
        "id": pa.array([bytes(16)], pa.uuid()),
        "price": pa.array([Decimal("1.50")]),
        "took": pa.array([1], pa.duration("ns")),
    }
    table, found = read(write(folder / "a.parquet", **columns))
    shown = {name: cells(name, table[name].combine_chunks())[0] for name in columns}
    assert shown == {
        "ns": "1970-01-01T00:00:00.000000001", "far": "11476-08-15T05:20:00",
        "id": "00000000-0000-0000-0000-000000000000", "price": "1.50", "took": "0:00:00.000000001",
    }  # fmt: skip
    assert found == {} and all(table[name].combine_chunks().equals(array) for name, array in columns.items())


@case("bytes in a prompt")
def bytes_in_a_prompt(folder, _):
    table, _ = read(write(folder / "a.parquet", v=[b"text", b"\xff"]))
    assert [str(cell) for cell in cells("v", table["v"].combine_chunks())] == ["text", "v is not valid UTF-8"]


@case("null in a prompt")
def null_in_a_prompt(folder, _):
    with pytest.raises(RowError, match="text is null"):
        Template.parse("{{ text }}").render({"text": None})
    assert Template.parse("{% if text is none %}none{% endif %}").render({"text": None}) == "none"


@case("a cell above 64 MiB, a row above 256 MiB")
def large(folder, monkeypatch):
    assert (settings().max_cell_bytes, settings().max_row_bytes) == (64 << 20, 256 << 20)
    file = write(folder / "a.parquet", text=["y" * 2000, "b", "b", "b", "b"])
    monkeypatch.setenv("PARQUETRY_MAX_CELL_BYTES", "1000")
    settings.cache_clear()
    try:
        assert list(faults(file)) == [0]
        monkeypatch.setenv("PARQUETRY_MAX_ROW_BYTES", "100")
        settings.cache_clear()
        assert "raise PARQUETRY_MAX_ROW_BYTES" in refusal(folder)
    finally:
        monkeypatch.undo()
        settings.cache_clear()


@case("a page whose checksum is wrong")
def wrong_checksum(folder, _):
    pq.write_table(pa.table({"v": ["hello"]}), folder / "a.parquet", compression="none", write_page_checksum=True)
    put(folder / "a.parquet", (folder / "a.parquet").read_bytes().replace(b"hello", b"hallo", 1))
    with pytest.raises(UnreadableFileError, match=r"a\.parquet cannot be read: .*CRC"):
        read(folder / "a.parquet")


@case("an encrypted or damaged file")
def encrypted(folder, _):
    assert "write it without encryption" in refusal(put(folder / "a.parquet", b"PARE" + bytes(8) + b"PARE"))
    assert "cut short" in refusal(put(folder / "b.parquet", write(folder / "c.parquet").read_bytes()[:-9]))


@case("types that differ between files without harm")
def without_harm(folder, _):
    one = write(folder / "a.parquet", s=pa.array(["a"], pa.large_string()), n=pa.array([2**53 + 1]))
    other = write(folder / "b.parquet", s=pa.array(["b"]).dictionary_encode(), n=pa.array([0.5]))
    table, found = read(one, other)
    assert table.to_pydict() == {"s": ["a", "b"], "n": [None, 0.5]}
    assert found == {0: "n holds a value that is no double"}


@case("types that differ with harm, such as text and numbers")
def with_harm(folder, _):
    write(folder / "a.parquet", v=["1"], text=["x"])
    write(folder / "b.parquet", v=[1], text=["y"])
    said = refusal(folder)
    assert all(part in said for part in ("a.parquet", "b.parquet", "'v'", "string", "int64", "input.columns"))
    assert find_inputs(InputSpec(path=str(folder), columns=["text"])).num_rows == 2


@case("a column that some files lack")
def lacking(folder, _):
    one, other = write(folder / "a.parquet", id=[1], v=[1]), write(folder / "b.parquet", id=[2])
    assert column(one, "v") == [1] and read(one, other)[0]["v"].to_pylist() == [1, None]
    with pytest.raises(BadInputError, match=r"b\.parquet: it lacks column 'v', which the job needs"):
        find_inputs(InputSpec(path=str(folder)), needed=["v"])


@case("a name that is no identifier")
def odd_name(_, __):
    assert Template.parse('{{ row["Review Text"] }}').render({"Review Text": "good"}) == "good"


@case("a column named as the output's own")
def own_name(_, __):
    from parquetry.schemas.spec.columns import reserved_names

    spec = {"task": "embed", "input": {"path": "in"}, "output": {"path": "out"}, "model": {"id": "m"}}
    assert reserved_names(JobSpec.parse(spec)) == {"row", "embedding", "error"}


@case("thousands of columns")
def wide(folder, _):
    file = write(folder / "a.parquet", text=["a"], **{f"c{i}": [i] for i in range(3000)})
    assert read(file)[0].num_columns == 3001
    assert read(file, output={"path": "out", "keep": ["c7"]}, prompt={"template": "{{ text }}"})[0].num_columns == 2


@case("the index of pandas, field ids, column metadata")
def metadata(folder, _):
    index = {"index_columns": ["key"], "columns": [{"name": None, "field_name": "key"}]}
    text = pa.field("text", pa.string(), metadata={"PARQUET:field_id": "7"})
    schema = pa.schema([text, pa.field("key", pa.int64())], metadata={"pandas": json.dumps(index)})
    pq.write_table(pa.table({"text": ["x"], "key": [5]}, schema=schema), folder / "a.parquet")
    found = find_inputs(InputSpec(path=str(folder))).schema
    assert json.loads(found.metadata[b"pandas"])["index_columns"] == ["key"]
    assert found.field("text").metadata[b"PARQUET:field_id"] == b"7"
