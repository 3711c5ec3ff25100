"""A Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from parquetry.frames.columns import require_plain
from parquetry.frames.frame import BATCH_ROWS

if TYPE_CHECKING:
    import datasets


class DatasetFrame:
    """One split. Its features, its format and its split stay, and its memory-mapped columns stay on disk."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset

    @property
    def num_rows(self) -> int:
        return int(self._dataset.num_rows)

    @property
    def names(self) -> list[str]:
        return list(self._dataset.column_names)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        chosen = self._dataset.with_format("arrow").select_columns(list(columns))
        for table in chosen.iter(batch_size=BATCH_ROWS):
            for field in table.schema:
                require_plain(field.name, field.type, remedy="map it to strings with dataset.map")
            yield table.replace_schema_metadata(None)

    def joined(self, new: pa.Table) -> datasets.Dataset:
        import datasets

        before, info = self._dataset.format, self._dataset.info.copy()
        # they are those of both
        info.features = None
        both = [self._dataset.with_format(None), datasets.Dataset(new)]
        joined = datasets.concatenate_datasets(both, info=info, split=self._dataset.split, axis=1)
        shown = [*before["columns"], *new.column_names]
        return joined.with_format(before["type"], shown, before["output_all_columns"], **before["format_kwargs"])
