"""A polars DataFrame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from parquetry.frames.columns import require_plain
from parquetry.frames.frame import BATCH_ROWS, FrameColumnError

if TYPE_CHECKING:
    import polars


class PolarsFrame:
    """Its own columns, categoricals and enums among them, stay what they are."""

    def __init__(self, frame: polars.DataFrame) -> None:
        self._frame = frame

    @property
    def num_rows(self) -> int:
        return int(self._frame.height)

    @property
    def names(self) -> list[str]:
        return list(self._frame.columns)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        import polars

        for name in columns:
            remedy = f"polars.col({name!r}).map_elements(str, return_dtype=polars.String)"
            if self._frame.schema[name] == polars.Object:
                raise FrameColumnError(column=name, reason=f"it holds Python objects; make it texts: {remedy}")
        for part in self._frame.select(columns).iter_slices(BATCH_ROWS):
            table = part.to_arrow(compat_level=polars.CompatLevel.oldest())
            for field in table.schema:
                require_plain(field.name, field.type, remedy=f"polars.col({field.name!r}).cast(polars.String)")
            yield table

    def joined(self, new: pa.Table) -> polars.DataFrame:
        import polars

        return self._frame.hstack(polars.DataFrame(polars.from_arrow(new)).get_columns())
