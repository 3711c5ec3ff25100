"""The fault-injection harness itself: its judge sees every kind of damage, its S3 server refuses, and one case runs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.chaos.checker import check
from tests.chaos.input_table import write_table
from tests.chaos.process import ROOT, environment_of

ROWS, SHARD_ROWS = 6, 3


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "in.parquet", ROWS, {4: "POISON"})


@pytest.fixture
def output(tmp_path: Path, table: Path) -> Path:
    """A sound output of two parts."""
    folder = tmp_path / "out"
    (folder / "_attempts").mkdir(parents=True)
    bounds = list(range(0, ROWS + 1, SHARD_ROWS))
    (folder / "_job.json").write_text(json.dumps({"job": "j", "plan": {"bounds": bounds}}))
    for shard in range(2):
        write_part(folder, table, shard)
    seal(folder)
    return folder


def write_part(folder: Path, table: Path, shard: int, *, notes_of: int | None = None) -> Path:
    rows = pq.read_table(table).slice(shard * SHARD_ROWS, SHARD_ROWS).to_pylist()
    failed = [row["expect"] == "error" for row in rows]
    part = pa.table(
        {
            "id": [row["id"] for row in rows],
            "row": range(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS),
            "output": [None if bad else row["text"] for row, bad in zip(rows, failed, strict=True)],
            "error": pa.array(["the engine died" if bad else None for bad in failed], pa.string()),
        }
    )
    notes = {"parquetry.job": "j", "parquetry.shard": str(shard if notes_of is None else notes_of)}
    path = folder / f"part-{shard:08d}.parquet"
    pq.write_table(part.replace_schema_metadata(notes), path)
    return path


def seal(folder: Path) -> None:
    parts = [
        {"path": path.name, "rows": SHARD_ROWS, "size": path.stat().st_size}
        | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.glob("part-*"))
    ]
    manifest = {"job": "j", "rows": SHARD_ROWS * len(parts), "parts": parts}
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    (folder / "_SUCCESS").touch()


def change_row(path: Path, column: str, values: list) -> None:
    part = pq.read_table(path)
    index = part.schema.get_field_index(column)
    pq.write_table(part.set_column(index, column, pa.array(values, part.schema.field(column).type)), path)


def test_judge_accepts_a_sound_output(output: Path, table: Path):
    findings = check(output, table)
    assert findings.violations == []
    assert (findings.rows, findings.error_rows) == (ROWS, 1)


def test_judge_sees_a_lost_part(output: Path, table: Path):
    (output / "part-00000001.parquet").unlink()
    findings = check(output, table)
    assert findings.lost == SHARD_ROWS
    assert any("missing parts" in violation for violation in findings.violations)


def test_judge_sees_a_doubled_part(output: Path, table: Path):
    (output / "part-00000002.parquet").write_bytes((output / "part-00000000.parquet").read_bytes())
    (output / "_job.json").write_text(json.dumps({"job": "j", "plan": {"bounds": [0, 3, 6, 9]}}))
    findings = check(output, table)
    assert findings.doubled == SHARD_ROWS
    assert any("outside the manifest" in violation for violation in findings.violations)


@pytest.mark.parametrize(
    ("column", "values"),
    [("output", ["9", "9", "9"]), ("error", ["no", None, None]), ("id", [8, 1, 15]), ("row", [0, 2, 1])],
)
def test_judge_sees_wrong_rows(output: Path, table: Path, column: str, values: list):
    change_row(output / "part-00000000.parquet", column, values)
    assert check(output, table).wrong > 0


def test_judge_sees_the_footer_of_another_shard(output: Path, table: Path):
    write_part(output, table, 0, notes_of=1)
    seal(output)
    assert any("another shard" in violation for violation in check(output, table).violations)


def test_judge_sees_a_changed_byte(output: Path, table: Path):
    path = output / "part-00000000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    with pytest.raises(pa.ArrowInvalid):
        check(output, table)


@pytest.mark.parametrize("name", ["part-00000000.parquet.tmp", "notes.txt"])
def test_judge_sees_stray_files(output: Path, table: Path, name: str):
    (output / name).touch()
    assert any("stray" in violation for violation in check(output, table).violations)


def test_judge_sees_a_claim_to_be_whole_without_a_manifest(output: Path, table: Path):
    (output / "_manifest.json").unlink()
    assert any("without a manifest" in violation for violation in check(output, table).violations)


def test_s3_server_refuses_a_second_create(tmp_path: Path):
    pytest.importorskip("moto.server")
    from tests.chaos.s3_server import S3Server

    server = S3Server(tmp_path)
    try:
        assert server.honours_conditional_puts()
    finally:
        server.stop()


def test_everything_killed_at_once_and_recovered():
    command = [sys.executable, "-m", "tests.chaos", "--only", "everything"]
    ended = subprocess.run(command, cwd=ROOT, env=environment_of({}), capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "every promise held" in ended.stdout
