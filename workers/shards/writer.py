"""Writes one attempt: row groups of even size, provenance in the schema, counts in the footer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from parquetry.schemas.spec.columns import REPAIRED_CELLS
from parquetry.schemas.storage.files import translated
from parquetry.workers.shards.provenance import as_metadata
from parquetry.workers.shards.shard_progress import RowCounts

#: a row group is written when either is reached
ROW_GROUP_ROWS = 8192
ROW_GROUP_BYTES = 64 << 20


class PartWriter:
    """An attempt file. Only `close` makes it a Parquet file; after `abort`, or a crash, it is none.

    On purpose no context manager: closing on the way out of an error would leave a valid, short file.
    """

    def __init__(self, path: Path, schema: pa.Schema, provenance: Mapping[str, str]) -> None:
        self._path = path
        self._schema = schema.with_metadata({**(schema.metadata or {}), **as_metadata(provenance)})
        with translated("writing", path):
            self._sink = pa.OSFile(str(path), "wb")
            self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        #: rows written so far
        self.num_rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; they must have the schema given at the start."""
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._batches).replace_schema_metadata(self._schema.metadata)
        with translated("writing", self._path):
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.num_rows += table.num_rows
        self._batches, self._rows, self._bytes = [], 0, 0

    def close(
        self,
        counts: RowCounts,
        repairs: Mapping[str, int] = MappingProxyType({}),
        error_kinds: Mapping[str, int] = MappingProxyType({}),
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Write the rest and the footer, with `counts` and the kinds of error rows beside the provenance.

        `repairs` says how many cells of columns that are only carried were not UTF-8, by column; `more` are further
        keys.
        """
        if self._batches:
            self._flush()
        said = {REPAIRED_CELLS: json.dumps(repairs)} if repairs else {}
        footer = {**asdict(counts), "errors": json.dumps(dict(error_kinds)), **said, **more}
        self._writer.add_key_value_metadata(as_metadata(footer))
        with translated("writing", self._path):
            self._writer.close()
            self._sink.close()

    def abort(self) -> None:
        """Leave a file without a footer, which nothing takes for a part."""
        # the sink goes first: whatever the writer does when it is collected no longer reaches the file
        with suppress(OSError):
            # a disk that is full says so again; what stopped the attempt is told already
            self._sink.close()
        self._writer.is_open = False
