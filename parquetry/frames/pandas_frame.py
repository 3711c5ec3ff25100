"""A pandas DataFrame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from parquetry.frames.columns import arrow_column
from parquetry.frames.frame import BATCH_ROWS

if TYPE_CHECKING:
    import pandas


class PandasFrame:
    """Its index, its own columns and their types stay what they are; new columns of numbers are nullable."""

    def __init__(self, frame: pandas.DataFrame) -> None:
        self._frame = frame

    @property
    def num_rows(self) -> int:
        return len(self._frame)

    @property
    def names(self) -> list[str]:
        return [name for name in self._frame.columns if isinstance(name, str)]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Each column is converted whole: what kind its values are, only all of them tell."""
        remedy = "frame[{name!r}].astype(str)"
        arrays = [arrow_column(name, self._frame[name], remedy=remedy.format(name=name)) for name in columns]
        table = pa.table(arrays, list(columns))
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield table.slice(start, BATCH_ROWS)

    def joined(self, new: pa.Table) -> pandas.DataFrame:
        joined = self._frame.copy(deep=False)
        for name in new.column_names:
            joined[name] = new[name].to_pandas(types_mapper=_nullable).array
        return joined


def _nullable(kind: pa.DataType) -> Any:
    """pandas' own type that has nulls: the type of a column must not depend on which of its cells are errors."""
    import pandas

    names = {pa.int32(): "Int32", pa.int64(): "Int64", pa.bool_(): "boolean"}
    if kind == pa.string():
        # before pandas 3 texts were objects
        found = pandas.Series([""]).dtype
        return found if isinstance(found, pandas.api.extensions.ExtensionDtype) else None
    return pandas.api.types.pandas_dtype(names[kind]) if kind in names else None
