"""Text files: every value as it is written, every row once, and a bad line by its file and number."""

from __future__ import annotations

import bz2
import gzip
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from parquetry.producers.inputs.inputs import find_inputs
from parquetry.schemas.spec.job import InputSpec
from parquetry.workers.reading.conform import Repairs
from parquetry.workers.shards.reader import read_shard
from tests.unit.workers.workers_records import make_record


def read(
    *paths: Path, keep: list[str] | None = None, repairs: Repairs | None = None, **spec
) -> tuple[pa.Table, dict[int, str]]:
    """All rows of some files, and what is wrong with some of them."""
    template = {"prompt": {"template": "x"}, "output": {"path": "out", "keep": keep}}
    record = make_record(list(paths), **{**template, **spec})
    rows = list(read_shard(record, record.shard_plan.shard(0), repairs=repairs))
    faults: dict[int, str] = {}
    start = 0
    for piece in rows:
        faults.update({start + row: fault for row, fault in piece.faults.items()})
        start += piece.num_rows
    return pa.Table.from_batches([piece.batch for piece in rows]), faults


def columns(table: pa.Table) -> dict:
    return table.to_pydict()


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(path: Path, text: str) -> Path:
    path.write_text(text, newline="")
    return path


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def test_json_strings_stay_strings(tmp_path):
    table, _ = read(jsonl(tmp_path / "a.jsonl", {"d": "2024-01-01", "t": "2024-01-01T00:00:00Z", "n": "007"}))
    assert columns(table) == {"d": ["2024-01-01"], "t": ["2024-01-01T00:00:00Z"], "n": ["007"]}


@pytest.mark.parametrize("values", [
    [2**63 - 1, -(2**63), None],
    [2**64 - 1, 1],
    [10**37, -5],
    [10**60, 1],
    [2**53 + 1, 0.5],
    [2**53 + 1, 2, 3.0],
])  # fmt: skip
def test_json_numbers_stay_exact(tmp_path, values):
    table, _ = read(jsonl(tmp_path / "a.jsonl", *({"n": value} for value in values)))
    exact = [None if value is None else Decimal(repr(value)) for value in values]
    assert [None if v is None else Decimal(str(v)) for v in table["n"].to_pylist()] == exact


def test_small_integers_beside_fractions_are_numbers(tmp_path):
    table, _ = read(jsonl(tmp_path / "a.jsonl", {"n": 1}, {"n": 0.5}))
    assert table["n"].to_pylist() == [1.0, 0.5]


def test_values_of_several_kinds_are_text(tmp_path):
    rows = [{"v": "a"}, {"v": 1}, {"v": {"k": [1]}}, {"v": True}, {"v": None}, {}]
    table, faults = read(jsonl(tmp_path / "a.jsonl", *rows))
    assert table["v"].to_pylist() == ["a", "1", '{"k": [1]}', "true", None, None]
    assert faults == {}


def test_objects_without_keys_are_text(tmp_path):
    table, _ = read(jsonl(tmp_path / "a.jsonl", {"v": {}}, {"v": {"a": {}}}))
    assert table["v"].to_pylist() == ["{}", '{"a": {}}']


def late(path: Path, first: object, last: object, num_rows: int = 6000) -> Path:
    """More than one block of rows with `first`, then one with `last`."""
    rows = [{"id": i, "pad": "x" * 1000, **({} if first is ... else {"v": first})} for i in range(num_rows)]
    return jsonl(path, *rows, {"id": num_rows, "pad": "", "v": last})


@pytest.mark.parametrize(("first", "last", "read_as"), [
    (..., "late", (None, "late")),
    (None, "late", (None, "late")),
    (None, 5, (None, 5)),
    (1, "late", ("1", "late")),
    (1, 0.5, (1.0, 0.5)),
    ("2024-01-01", "late", ("2024-01-01", "late")),
    (1, 2**64, (1, 2**64)),
    ([1], [0.5], ([1.0], [0.5])),
    ({"a": 1}, {"b": "x"}, ({"a": 1, "b": None}, {"a": None, "b": "x"})),
    ([], [{"a": None}], ([], [{"a": None}])),
    ({"a": 1}, [1], ('{"a": 1}', "[1]")),
])  # fmt: skip
def test_what_comes_late_is_read_like_the_rest(tmp_path, first, last, read_as):
    table, faults = read(late(tmp_path / "a.jsonl", first, last), keep=["id", "v"])
    assert faults == {}
    assert table["id"].to_pylist() == list(range(6001))
    assert (table["v"][0].as_py(), table["v"][-1].as_py()) == read_as


def test_types_are_joined_across_files(tmp_path):
    files = [
        jsonl(tmp_path / "a.jsonl", {"v": 1}),
        jsonl(tmp_path / "b.jsonl", {"v": "x"}),
        csv(tmp_path / "c.csv", "v\n01\n"),
    ]
    table, _ = read(*files)
    assert table["v"].to_pylist() == ["1", "x", "01"]


def test_csv_keeps_what_is_written(tmp_path):
    text = "zip,date,big,price,pi,flag,name\n01234,2024-01-01,12345678901234567890,1.50,3.141592653589793,true,NA\n"
    table, _ = read(csv(tmp_path / "a.csv", text))
    assert columns(table) == {
        "zip": ["01234"], "date": ["2024-01-01"], "big": ["12345678901234567890"], "price": [1.5],
        "pi": [3.141592653589793], "flag": ["true"], "name": ["NA"],
    }  # fmt: skip


def test_csv_as_text_is_what_is_written(tmp_path):
    table, _ = read(csv(tmp_path / "a.csv", "a,b\n1.50,\n2,NA\n"), input={"path": "x", "types": "text"})
    assert columns(table) == {"a": ["1.50", "2"], "b": ["", "NA"]}


def test_csv_numbers_have_nulls(tmp_path):
    table, _ = read(csv(tmp_path / "a.csv", "a,b\n1,0.5\nNA,\n,nan\n-3,2e3\n"))
    assert columns(table) == {"a": [1, None, None, -3], "b": [0.5, None, None, 2000.0]}


@pytest.mark.parametrize(
    "values",
    [
        *(["1", "9007199254740993", "0.5"], ["0.1234567890123456789"], ["00.5"], ["1_000"], ["+1"], [" 1"]),
        *(["1e400", "2"], ["1e-400", "2"], ["inf"]),
    ],
)
def test_csv_numbers_that_would_change_are_text(tmp_path, values):
    table, _ = read(csv(tmp_path / "a.csv", "a\n" + "\n".join(values) + "\n"))
    assert table["a"].to_pylist() == values


def test_tab_separated(tmp_path):
    table, _ = read(csv(tmp_path / "a.tsv", "a\tb\n1,5\tx\n"))
    assert columns(table) == {"a": ["1,5"], "b": ["x"]}


def test_an_open_quote_spoils_one_line(tmp_path):
    lines = ["id,text", '1,"open', "2,b", '3,"two', 'lines"', "4,d", '5,"open again', "6,f"]
    table, faults = read(csv(tmp_path / "a.csv", "\n".join(lines) + "\n"))
    assert table["id"].to_pylist() == [None, 2, 3, 4, None, 6]
    assert table["text"].to_pylist() == [None, "b", "two\nlines", "d", None, "f"]
    assert list(faults) == [0, 4]
    assert faults[4] == "line 7 of a.csv: its quote is not closed"
    assert faults[0].startswith("line 2 of a.csv: a quoted field of it goes on behind its closing quote")


def test_lines_with_other_numbers_of_fields(tmp_path):
    table, faults = read(csv(tmp_path / "a.csv", "a,b\n1,2\n3\n4,5,6\n\n7,8\n"))
    assert columns(table) == {"a": [1, None, None, 7], "b": [2, None, None, 8]}
    assert faults == {
        1: "line 3 of a.csv: it has 1 field, and the header has 2",
        2: "line 4 of a.csv: it has 3 fields, and the header has 2",
    }


def test_malformed_json_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"a": 1}\n{"a": \n\n[1]\n"x"\n{"a": 2}\n{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b'}\n{"a": 3'
    )
    table, faults = read(tmp_path / "a.jsonl")
    assert table["a"].to_pylist() == [1, None, None, None, 2, None, None]
    assert list(faults) == [1, 2, 3, 5, 6]
    assert faults[1].startswith("line 2 of a.jsonl: it is not valid JSON")
    assert faults[2] == "line 4 of a.jsonl: it is JSON, but no object (an array)"
    assert faults[5] == "line 7 of a.jsonl: it is not valid JSON (nested too deeply)"
    assert faults[6].startswith("line 8 of a.jsonl: it is not valid JSON")


def test_deep_json_that_python_still_reads(tmp_path):
    nested = "[" * 500 + "]" * 500
    (tmp_path / "a.jsonl").write_text(f'{{"a": {nested}}}\n{{"a": [1]}}\n')
    table, faults = read(tmp_path / "a.jsonl")
    assert table["a"].to_pylist() == [None, [1]]
    assert faults == {0: "line 1 of a.jsonl: it is nested more than 100 levels deep"}


def test_text_that_is_not_utf8_is_repaired_and_said(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "x\xffy"}\n{"a": "\\ud800z"}\n{"a": "ok"}\n')
    (tmp_path / "b.csv").write_bytes(b"a,b\nx\xffy,1\nok,2\n")
    table, faults = read(tmp_path / "a.jsonl", prompt={"template": "{{ a }}"})
    assert table["a"].to_pylist() == ["x\ufffdy", "\ufffdz", "ok"]
    assert faults == {row: f"line {row + 1} of a.jsonl: a is not valid UTF-8" for row in (0, 1)}
    table, faults = read(tmp_path / "b.csv", prompt={"template": "{{ a }}"})
    assert columns(table) == {"a": ["x\ufffdy", "ok"], "b": [1, 2]}
    assert faults == {0: "line 2 of b.csv: a is not valid UTF-8"}


def test_text_that_is_only_kept_is_repaired_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "x\xff", "m": [{"b": "\\uD800", "c": 1}]}\n{"a": "ok", "m": []}\n')
    (tmp_path / "b.csv").write_bytes(b"a\nx\xffy\nok\n")
    repairs = Repairs()
    table, faults = read(tmp_path / "a.jsonl", tmp_path / "b.csv", repairs=repairs)
    assert table["a"].to_pylist() == ["x\ufffd", "ok", "x\ufffdy", "ok"]
    assert table["m"].to_pylist() == [[{"b": "\ufffd", "c": 1}], [], None, None]
    assert (faults, repairs) == ({}, {"a": 2, "m": 1})


@pytest.mark.parametrize(("line", "fault"), [
    (b'{"a": 1, "a": 2}', "it has the key 'a' more than once"),
    (b'{"a" : {"b": 1, "b": "a\\":1"}}', "it has the key 'b' more than once"),
    (b'{"a": 1e400}', "it has a number beyond the range of a double (1e400)"),
    (b'{"a": %s}' % (b"9" * 5000), "it has an integer of more than 4,300 digits"),
    (b'{"\\ud800": 1}', "it has a key that is not valid Unicode"),
    (b'{"a\xff": 1}', "it has a key that is not valid Unicode"),
])  # fmt: skip
def test_lines_of_which_something_would_be_lost(tmp_path, line, fault):
    (tmp_path / "a.jsonl").write_bytes(line + b'\n\xef\xbb\xbf{"a": 7, "b" : "\\":"}\n')
    table, faults = read(tmp_path / "a.jsonl")
    assert columns(table) == {"a": [None, 7], "b": [None, '":']}
    assert faults == {0: f"line 1 of a.jsonl: {fault}"}


@pytest.mark.parametrize("values", [[0.5, True], [[0.5, True]], [{"k": 0.5}, {"k": True}]])
def test_flags_among_numbers_stay_flags(tmp_path, values):
    table, _ = read(jsonl(tmp_path / "a.jsonl", *({"v": value} for value in values)))
    assert [json.loads(text) for text in table["v"].to_pylist()] == values


def test_lines_without_keys_are_rows(tmp_path):
    table, faults = read(jsonl(tmp_path / "a.jsonl", {}, {}, {}))
    assert (table.num_rows, faults) == (3, {})


def test_blank_lines_of_a_single_column_are_nulls(tmp_path):
    table, _ = read(csv(tmp_path / "a.csv", 'text\na\n\n""\n\n'))
    assert table["text"].to_pylist() == ["a", None, "", None]


@pytest.mark.parametrize(("name", "pack"), [
    ("a.jsonl", gzip.compress),
    ("a.jsonl.gz", bz2.compress),
    ("a.jsonl.zst", lambda data: b"\x50\x2a\x4d\x18\4\0\0\0abcd" + zstd(data)),
])  # fmt: skip
def test_compression_is_told_by_the_content(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b'{"a": 1}\n'))
    assert read(tmp_path / name)[0]["a"].to_pylist() == [1]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfid,text\n1,x\n")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 2, "text": "y"}\n')
    table, _ = read(tmp_path / "a.csv", tmp_path / "b.jsonl")
    assert columns(table) == {"id": [1, 2], "text": ["x", "y"]}


def test_a_line_beyond_the_limit_is_an_error_row(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_MAX_ROW_BYTES", "1000")
    from parquetry.schemas.settings import settings

    settings.cache_clear()
    try:
        table, faults = read(jsonl(tmp_path / "a.jsonl", {"a": "x"}, {"a": "y" * 5000}, {"a": "z"}))
    finally:
        settings.cache_clear()
    assert table["a"].to_pylist() == ["x", None, "z"]
    assert faults == {1: "line 2 of a.jsonl: it is longer than 1,000 bytes"}


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd), (".bz2", bz2.compress)])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_compressed_text(tmp_path, suffix, compress, kind):
    lines = [f"{i},{'x' * 1000}" if kind == "csv" else json.dumps({"id": i, "text": "x" * 1000}) for i in range(12_000)]
    data = ("id,text\n" if kind == "csv" else "") + "".join(f"{line}\n" for line in lines)
    path = tmp_path / f"a.{kind}{suffix}"
    # several members, as parallel compressors write them
    path.write_bytes(compress(data[:1000].encode()) + compress(data[1000:].encode()))
    record = make_record([path], rows_per_shard=5000)
    found = [list(read_shard(record, record.shard_plan.shard(index))) for index in range(3)]
    assert [row for rows in found for piece in rows for row in piece.batch["id"].to_pylist()] == list(range(12_000))
    assert record.shard_plan.files[0].marks


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_late_shard_is_found_without_reading_what_is_before(tmp_path, kind, monkeypatch):
    path = tmp_path / f"a.{kind}"
    lines = [
        f'{i},"x\n{"x" * 1000}"' if kind == "csv" else json.dumps({"id": i, "text": "x" * 1000}) for i in range(20_000)
    ]
    path.write_text(("id,text\n" if kind == "csv" else "") + "".join(f"{line}\n" for line in lines))
    record = make_record([path], rows_per_shard=1000)
    marks = record.shard_plan.files[0].marks
    assert marks[-1][0] > 14_000
    taken = []
    from parquetry.workers.reading import csv_records, json_lines
    from parquetry.workers.reading import lines as reading

    def counted(stream, mark, limit):
        for line in reading.lines(stream, mark, limit):
            taken.append(line.number)
            yield line

    monkeypatch.setattr(json_lines, "lines", counted)
    monkeypatch.setattr(csv_records, "lines", counted)
    (rows,) = [piece.batch["id"].to_pylist() for piece in [next(read_shard(record, record.shard_plan.shard(19)))]]
    assert rows[0] == 19_000
    # a header has one line
    assert min(taken[2:]) > 14_000


def test_a_limit_ends_the_pass(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"id": i} for i in range(100)))
    with path.open("a") as file:
        file.write("not json\n")
    table = find_inputs(InputSpec(path=str(path), limit=10))
    assert (table.num_rows, table.malformed) == (10, None)


def test_a_pass_is_made_once(tmp_path, monkeypatch):
    from parquetry.producers.inputs import footers

    path = late(tmp_path / "a.jsonl", 1, "late")
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path / "state"))
    from parquetry.schemas.settings import settings

    settings.cache_clear()
    try:
        first = find_inputs(InputSpec(path=str(path)))
        with monkeypatch.context() as patch:
            patch.setattr(footers, "scan", None)
            assert find_inputs(InputSpec(path=str(path))) == first
        path.write_text('{"other": 1}\n')
        assert find_inputs(InputSpec(path=str(path))).columns == ("other",)
    finally:
        settings.cache_clear()
