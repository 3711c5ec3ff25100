"""A list of strings, or of dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from parquetry.frames.columns import arrow_column
from parquetry.frames.frame import BATCH_ROWS

#: what the one column of a list of strings is called
TEXT = "text"


class RowList:
    """Rows come back as new dicts, with the values of the caller's own; a key that a row lacks is null to the job."""

    def __init__(self, rows: Sequence[str | Mapping[str, Any]]) -> None:
        self._rows: list[Mapping[str, Any]] = [{TEXT: row} if isinstance(row, str) else row for row in rows]

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def names(self) -> list[str]:
        """The keys of all rows, in the order in which they turn up."""
        return list(dict.fromkeys(key for row in self._rows for key in row if isinstance(key, str)))

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Each column is converted whole: what kind its values are, only all of them tell."""
        arrays = [arrow_column(name, [row.get(name) for row in self._rows], remedy="str(value)") for name in columns]
        table = pa.table(arrays, list(columns))
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield table.slice(start, BATCH_ROWS)

    def joined(self, new: pa.Table) -> list[dict[str, Any]]:
        return [{**row, **added} for row, added in zip(self._rows, new.to_pylist(), strict=True)]
