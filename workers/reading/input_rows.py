"""Rows as they come from a file: a batch, and what was wrong with single rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class InputRows:
    """Some rows of the input. A faulty row is there like any other, with null or repaired cells."""

    batch: pa.RecordBatch
    #: what is wrong with single rows, by position in the batch
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return self.batch.num_rows

    def slice(self, start: int, num_rows: int) -> InputRows:
        """Rows [start, start + num_rows), or up to the end."""
        stop = min(start + num_rows, self.num_rows)
        mine = {row - start: fault for row, fault in self.faults.items() if start <= row < stop}
        return InputRows(self.batch.slice(start, num_rows), mine)

    def take(self, rows: Sequence[int]) -> InputRows:
        """One or more of the rows, by ascending position."""
        faults = {index: self.faults[row] for index, row in enumerate(rows) if row in self.faults}
        runs = np.split(np.asarray(rows), np.flatnonzero(np.diff(rows) != 1) + 1)
        # not by Arrow's own take, which does not know all types
        return InputRows(pa.concat_batches([self.batch.slice(run[0], len(run)) for run in runs]), faults)

    def pieces(self, num_rows: int) -> Iterator[InputRows]:
        """The rows in pieces of at most `num_rows`."""
        if self.num_rows <= num_rows:
            return iter((self,))
        return (self.slice(start, num_rows) for start in range(0, self.num_rows, num_rows))
