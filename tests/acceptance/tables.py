"""Input tables with the rows that break things, and what the output must say about each of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NUM_ROWS = 10_003
#: rows of each file, cut into row groups of these sizes
FILES = {"a.parquet": (4000, (1, 1700, 2299)), "b.parquet": (3, (3,)), "c.parquet": (6000, (4096, 1904))}
ODD_TEXTS = {
    0: "",
    7: None,
    8: "\U0001f333\U0001f9f1 emoji \U0001f469\u200d\U0001f4bb",
    1700: "a" * 50_000 + " " + "b" * 50_000,
    1701: "before\x00after",
    4000: None,
    4001: "",
    4003: "first of the third file",
    10_002: None,
}


def texts(num_rows: int) -> list[str | None]:
    """Short texts of varying length, the odd ones among them."""
    words = ("wood", "block", "floor", "gap", "oak", "fit")
    plain = [" ".join(words[(i * k) % 6] for k in range(1, 2 + i % 9)) for i in range(num_rows)]
    return [ODD_TEXTS.get(i, text) for i, text in enumerate(plain)]


def write_folder(folder: Path) -> Path:
    """10,003 rows in three files with uneven row groups; column `id` is the row's position as a text."""
    folder.mkdir()
    start = 0
    for name, (num_rows, groups) in FILES.items():
        _write(folder / name, texts(NUM_ROWS)[start : start + num_rows], start, groups)
        start += num_rows
    return folder


def write_file(path: Path, num_rows: int) -> Path:
    """One file of `num_rows` rows in one row group."""
    _write(path, texts(num_rows), 0, (num_rows,))
    return path


def write_odd_file(path: Path) -> Path:
    """Nothing but the odd rows."""
    values = list(ODD_TEXTS.values())
    _write(path, values, 0, (len(values),))
    return path


def _write(path: Path, values: list[str | None], start: int, groups: tuple[int, ...]) -> None:
    ids = [f"id-{start + i}" for i in range(len(values))]
    table = pa.table({"id": ids, "text": pa.array(values, pa.string())})
    with pq.ParquetWriter(path, table.schema) as writer:
        offset = 0
        for size in groups:
            writer.write_table(table.slice(offset, size), row_group_size=size)
            offset += size


def read_parts(output: Path) -> pa.Table:
    """All parts, in the order of their names; fails when the output is not a finished one."""
    assert (output / "_SUCCESS").exists()
    manifest = json.loads((output / "_manifest.json").read_text())
    names = sorted(path.name for path in output.glob("part-*.parquet"))
    assert [part["path"] for part in manifest["parts"]] == names
    tables = [pq.read_table(output / name).replace_schema_metadata(None) for name in names]
    return pa.concat_tables(tables)


def assert_every_row_once(table: pa.Table, num_rows: int) -> None:
    """`row` is contiguous and in order, and each row carries its own id."""
    assert table["row"].to_pylist() == list(range(num_rows))
    assert table["id"].to_pylist() == [f"id-{i}" for i in range(num_rows)]
