"""An Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from parquetry.frames.columns import require_plain
from parquetry.frames.frame import BATCH_ROWS


class ArrowFrame:
    """Its schema and what its metadata says stay; the new columns come behind."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def num_rows(self) -> int:
        return int(self._table.num_rows)

    @property
    def names(self) -> list[str]:
        return list(self._table.column_names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for name in columns:
            require_plain(name, self._table.schema.field(name).type, remedy="a column of strings")
        table = self._table.select(list(columns)).replace_schema_metadata(None)
        for start in range(0, self.num_rows, BATCH_ROWS):
            yield table.slice(start, BATCH_ROWS)

    def joined(self, new: pa.Table) -> pa.Table:
        joined = self._table
        for field in new.schema:
            joined = joined.append_column(field, new[field.name])
        return joined
