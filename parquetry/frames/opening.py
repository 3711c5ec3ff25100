"""Which kind of frame an object is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parquetry.frames.frame import Frame, UnknownFrameError

KINDS = "a pandas or polars DataFrame, a pyarrow Table, a datasets.Dataset, or a list of strings or dicts"
#: what is nearly a frame -> how it becomes one
REMEDIES = {
    "Series": "make a frame of it: series.to_frame('text')",
    "LazyFrame": "collect it first: frame.collect()",
    "DatasetDict": "give one split of it, such as dataset['train']",
    "IterableDatasetDict": "give one split of it, written to Parquet, to parquetry.run",
    "IterableDataset": "it has no end to join columns to; write it to Parquet for parquetry.run",
    "RecordBatch": "make a table of it: pyarrow.Table.from_batches([batch])",
    "ndarray": "make a list of it: array.tolist()",
    "str": "put it into a list",
}


def open_frame(given: Any) -> Frame:
    """The frame of an object. Its library is not imported: where the object comes from it, it is there.

    Raises UnknownFrameError.
    """
    for module, kind, opened in _LIBRARIES:
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(given, getattr(loaded, kind)):
            return opened(given)
    if isinstance(given, list | tuple):
        return _row_list(given)
    raise _unknown(given)


def _row_list(given: Sequence[Any]) -> Frame:
    from parquetry.frames.row_list import RowList

    for kind in (str, Mapping):
        if all(isinstance(row, kind) for row in given):
            return RowList(given)
    odd = next(
        i for i, row in enumerate(given) if not isinstance(row, str | Mapping) or type(row) is not type(given[0])
    )
    what = f"A list with {type(given[0]).__name__} in row 0 and {type(given[odd]).__name__} in row {odd}"
    raise UnknownFrameError(given=what, remedy="", kinds=KINDS)


def _unknown(given: Any) -> UnknownFrameError:
    name = type(given).__name__
    remedy = f"; {REMEDIES[name]}" if name in REMEDIES else ""
    return UnknownFrameError(given=f"A {type(given).__module__.partition('.')[0]} {name}", remedy=remedy, kinds=KINDS)


def _pandas(given: Any) -> Frame:
    from parquetry.frames.pandas_frame import PandasFrame

    return PandasFrame(given)


def _polars(given: Any) -> Frame:
    from parquetry.frames.polars_frame import PolarsFrame

    return PolarsFrame(given)


def _arrow(given: Any) -> Frame:
    from parquetry.frames.arrow_frame import ArrowFrame

    return ArrowFrame(given)


def _dataset(given: Any) -> Frame:
    from parquetry.frames.dataset_frame import DatasetFrame

    return DatasetFrame(given)


_LIBRARIES: tuple[tuple[str, str, Callable[[Any], Frame]], ...] = (
    ("pandas", "DataFrame", _pandas),
    ("polars", "DataFrame", _polars),
    ("pyarrow", "Table", _arrow),
    ("datasets", "Dataset", _dataset),
)
