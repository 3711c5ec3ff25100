"""Inputs as people have them, through the real product: every row once, and one bad cell is one row."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parquetry.output import ways_to_read
from tests.acceptance.tables import read_parts

NS = 1_700_000_000_123_456_789
FAR = 3 * 10**17
HUGE = "y" * (9 << 20)


@pytest.fixture
def folder(shell):
    (shell.folder / "in").mkdir()
    return shell.folder / "in"


def write_text_files(folder):
    """Text of every kind with bad lines: rows, and what is wrong with some of them."""
    folder.mkdir()
    (folder / "a.jsonl").write_text(
        '{"id": "2024-01-01", "text": "one", "big": 12345678901234567890}\n'
        '{"id": "007", "text": \n'
        '{"id": "x", "text": "three", "late": {"k": [1]}}\n'
    )
    (folder / "b.csv.gz").write_bytes(gzip.compress(b'id,text\n01234,four\n5,"open\n6,six\n'))
    (folder / "c.NDJSON").write_bytes(b'{"id": "c", "text": "sev\xffen"}\n')
    (folder / "notes.txt").write_text("not rows")


def write_spark_folder(folder):
    """Two partitions, one of them of null, as Spark and Athena leave them."""
    for partition, text in (("_date=2024-01-01", "a"), ("_date=__HIVE_DEFAULT_PARTITION__", "b")):
        (folder / partition).mkdir(parents=True)
        pq.write_table(pa.table({"text": [text]}), folder / partition / "part-00000")
    (folder / "_SUCCESS").write_text("")


def test_files_of_every_kind_in_one_job_and_every_way_to_read_its_output(shell, folder, encoder):
    write_text_files(folder / "plain")
    write_spark_folder(folder / "spark")
    inputs = {"path": ["in/plain", "in/spark"]}
    spec = {"task": "embed", "input": inputs, "output": {"path": "out"}, "model": {"id": str(encoder)}}
    ended = shell.run("run", shell.spec("embed", **spec))
    assert ended.returncode == 0, ended.stderr
    table = read_parts(shell.folder / "out")
    assert table["id"].to_pylist() == ["2024-01-01", None, "x", "01234", None, "6", "c", None, None]
    assert [str(value) for value in table["big"].to_pylist()[:1]] == ["12345678901234567890"]
    assert table["late"].to_pylist()[2] == {"k": [1]}
    found = dict(zip(table["text"].to_pylist()[7:], table["_date"].to_pylist()[7:], strict=True))
    assert found == {"a": "2024-01-01", "b": None}
    errors = dict(enumerate(table["error"].to_pylist()))
    assert [row for row, error in errors.items() if error] == [1, 4, 6]
    assert errors[1].startswith("line 2 of a.jsonl: it is not valid JSON")
    assert errors[4].startswith("line 3 of b.csv.gz: ")
    assert errors[6] == "line 1 of c.NDJSON: text is not valid UTF-8"
    assert "1 file (1 with .txt), of no format that is read here" in ended.stderr
    assert "2 lines are malformed and become error rows" in ended.stderr
    assert_every_way_to_read(ended.stdout, str(shell.folder / "out"), table.num_rows)


def assert_every_way_to_read(said, out, num_rows):
    """Each line that `run` ends with is executed as it is printed, where its library is installed."""
    for library, way in ways_to_read(out).items():
        assert way in said
        module = "pyarrow.parquet" if library == "pyarrow" else library
        program = f"import {module}\nfound = {way}\nprint(len(found['train'] if isinstance(found, dict) else found))"
        python = os.environ.get("OTHER_PYTHON", sys.executable)
        if python == sys.executable and find_spec(library) is None:
            assert library != "pyarrow"
            continue
        read = subprocess.run(
            [python, "-c", program], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
        assert read.stdout.strip() == str(num_rows), (library, read.stderr)


def test_cells_that_nobody_takes_and_typed_columns(shell, folder, generator):
    """Nanoseconds, years beyond 9999, text that is not UTF-8 and a huge cell: in templates, kept, and shown."""
    broken = pa.array([b"ok", b"x\xffy", b"ok"], pa.binary()).view(pa.string())
    columns = {
        "text": ["a", "b", HUGE],
        "when": pa.array([NS, None, NS], pa.timestamp("ns")),
        "far": pa.array([FAR, FAR, FAR], pa.timestamp("us")),
        "id": pa.array([bytes(16)] * 3, pa.uuid()),
        "Odd name": broken,
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "sure": {"type": "boolean"}},
        "required": ["mood", "sure"],
        "additionalProperties": False,
    }
    spec = shell.spec(
        "generate",
        task="generate",
        input={"path": "in"},
        output={"path": "out", "keep": ["when", "far", "id", "Odd name"]},
        model={"id": str(generator)},
        prompt={"template": '{{ when }} {{ far }} {{ id }} {{ row["text"] }}', "chat": False},
        generation={"max_new_tokens": 64, "json_schema": schema, "json_columns": True},
    )
    ended = shell.run("run", spec)
    assert ended.returncode == 0, ended.stderr
    # the terminal folds the rest
    assert "2023-11" in ended.stdout
    assert "repaired with U+FFFD: 1 cell of the kept column Odd name" in ended.stdout
    table = read_parts(shell.folder / "out")
    assert table["Odd name"].to_pylist() == ["ok", "x\ufffdy", "ok"]
    first, null, huge = table["error"].to_pylist()
    assert first is None
    assert null == "when is null"
    assert "characters, but at most" in huge
    assert table.schema.field("sure").type == pa.bool_()
    # Python has no such year
    for row in table.drop_columns(["far"]).to_pylist():
        if row["finish_reason"] == "stop":
            assert json.loads(row["output"]) == {"mood": row["mood"], "sure": row["sure"]}


@pytest.mark.parametrize(
    ("sign", "commands"),
    [
        ("_delta_log/0.json", ["plan", "run"]),
        ("metadata/v1.metadata.json", ["plan"]),
        (".hoodie/hoodie.properties", ["plan"]),
    ],
)
def test_a_table_is_refused_rather_than_read_with_its_dead_rows(shell, folder, encoder, sign, commands):
    pq.write_table(pa.table({"text": ["dead"]}), folder / "a.parquet")
    (folder / sign).parent.mkdir()
    (folder / sign).write_text("{}")
    spec = shell.spec("embed", task="embed", input={"path": "in"}, output={"path": "out"}, model={"id": str(encoder)})
    for command in commands:
        ended = shell.run(command, spec)
        assert ended.returncode == 2
        assert "whose folder also holds rows that are gone" in ended.stderr
    assert not (shell.folder / "out").exists()


def test_a_template_that_every_row_fails_is_refused(shell, folder, generator):
    pq.write_table(pa.table({"text": ["x"]}), folder / "a.parquet")
    base = {"task": "generate", "input": {"path": "in"}, "output": {"path": "out"}, "model": {"id": str(generator)}}
    base["generation"] = {"max_new_tokens": 2}
    for template in ("{{ text.__class__ }}", "{{ text - 2 }}"):
        ended = shell.run("run", shell.spec("bad", **base, prompt={"template": template, "chat": False}))
        assert ended.returncode == 2, ended.stderr
        assert "fails for each of the first 1 rows" in ended.stderr
    assert not (shell.folder / "out").exists()
