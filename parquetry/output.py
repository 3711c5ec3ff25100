"""Reads a job's committed parts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.errors import BadInputError
from parquetry.schemas.location import Location
from parquetry.schemas.spec.columns import PROVENANCE_PREFIX, REPAIRED_CELLS
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage

_REPAIRED = f"{PROVENANCE_PREFIX}{REPAIRED_CELLS}".encode()
#: footers that are looked into at the end of a run, and as many at once
_MOST_FOOTERS = 1000
_NUM_READERS = 16
_PART = re.compile(r"part-\d{8,}\.parquet")


class NoOutputError(BadInputError):
    """There is no committed part in {path} yet."""


def read_output(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Every committed part, in row order. Raises NoOutputError when there is none."""
    storage = open_storage(Location.parse(path))
    tables = [read_part(storage, part, columns) for part in part_names(storage)]
    if not tables:
        raise NoOutputError(path=path)
    # each part says in its metadata which shard it is; the table is of them all. What pandas wrote is of all as well
    index = {key: value for key, value in (tables[0].schema.metadata or {}).items() if key == b"pandas"}
    return pa.concat_tables([table.replace_schema_metadata(index or None) for table in tables])


def ways_to_read(path: str) -> dict[str, str]:
    """How each library reads the output in `path`, as an expression by the library's name.

    Those that take every file of a folder for data are given the parts alone.
    """
    # as JSON writes it, and as Python formatters do
    folder, parts = (json.dumps(text, ensure_ascii=False) for text in (path, f"{path.rstrip('/')}/*.parquet"))
    return {
        "pyarrow": f"pyarrow.parquet.read_table({folder})",
        "pandas": f"pandas.read_parquet({folder})",
        "polars": f"polars.read_parquet({parts})",
        "duckdb": f"duckdb.read_parquet({parts})",
        "datasets": f'datasets.load_dataset("parquet", data_files={parts})',
    }


def head(path: str, rows: int) -> pa.Table | None:
    """The first rows of the first part, None when there is none."""
    storage = open_storage(Location.parse(path))
    names = part_names(storage)
    return _first_rows(storage, names[0], rows) if names else None


def repaired_cells(path: str) -> Counter[str]:
    """How many kept cells were not UTF-8 and have U+FFFD now, by column, as the footers of the first parts say."""
    storage = open_storage(Location.parse(path))
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        found = readers.map(lambda name: _repaired_cells(storage, name), part_names(storage)[:_MOST_FOOTERS])
        return sum(found, Counter[str]())


def _repaired_cells(storage: Storage, name: str) -> Counter[str]:
    with storage.open(name) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        return Counter(json.loads((file.metadata.metadata or {}).get(_REPAIRED, b"{}")))


def part_names(storage: Storage) -> list[str]:
    """Names of the committed parts, by shard."""
    return sorted(entry.path for entry in storage.list("part-") if _PART.fullmatch(entry.path))


def read_part(storage: Storage, name: str, columns: Sequence[str] | None) -> pa.Table:
    """One committed part, or some of its columns."""
    # Arrow's threads may hold what they read of a Python file, and abort a process that ends soon after it
    with storage.open(name) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read(columns=list(columns) if columns is not None else None, use_threads=False)


def _first_rows(storage: Storage, name: str, rows: int) -> pa.Table:
    with storage.open(name) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        batch = next(file.iter_batches(batch_size=rows, use_threads=False), None)
        return pa.Table.from_batches([batch] if batch is not None else [], schema=file.schema_arrow).slice(0, rows)
