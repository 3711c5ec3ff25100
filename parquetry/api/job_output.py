"""The rows of a job in the form that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parquetry.workers.packages import require

if TYPE_CHECKING:
    import datasets
    import pandas
    import polars
    import pyarrow as pa


@dataclass(frozen=True, repr=False)
class JobOutput:
    """The committed parts of one job."""

    id: str
    #: folder or URI the parts are written to
    output: str

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The output committed so far, in input order; the whole of it once the job is done."""
        from parquetry.output import read_output

        return read_output(self.output, columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """The same as a DataFrame, with the index of the input where it is kept. Raises MissingPackageError."""
        require("pandas", feature="Job.to_pandas")
        return self.to_table(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> polars.DataFrame:
        """The same as a polars DataFrame. Raises MissingPackageError."""
        require("polars", feature="Job.to_polars")
        import polars

        return polars.from_arrow(self.to_table(columns))

    def to_dataset(self, columns: Sequence[str] | None = None) -> datasets.Dataset:
        """The same as a Hugging Face dataset. Raises MissingPackageError."""
        require("datasets", feature="Job.to_dataset")
        import datasets

        return datasets.Dataset(self.to_table(columns))

    def to_dicts(self, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The same as a list of rows."""
        return self.to_table(columns).to_pylist()
