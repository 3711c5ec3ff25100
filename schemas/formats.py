"""Input file formats by name, and text files opened the one way that every reader must share.

Rows of .jsonl and .csv files are found by position, so whoever counts them and whoever reads them must parse alike.
"""

from __future__ import annotations

from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.json

Format = Literal["parquet", "jsonl", "csv"]
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv"}
#: bytes parsed at once; column types come from the first block, and a line must fit into one
TEXT_BLOCK_BYTES = 16 << 20


def format_of(name: str) -> Format | None:
    """The format of a file with this name or path, None when its suffix is not one of .parquet, .jsonl and .csv."""
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def open_text(file: BinaryIO, kind: Format) -> pa.RecordBatchReader:
    """Batches of a .jsonl or .csv file, in file order. Raises pa.ArrowInvalid, at once or while it is read."""
    if kind == "jsonl":
        options = pa.json.ReadOptions(block_size=TEXT_BLOCK_BYTES)
        return pa.json.open_json(file, read_options=options)
    return pa.csv.open_csv(
        file,
        read_options=pa.csv.ReadOptions(block_size=TEXT_BLOCK_BYTES),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
    )
