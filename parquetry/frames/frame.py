"""What a call is given: a table of some library, seen through the few things that a job needs of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from parquetry.schemas.errors import BadInputError

if TYPE_CHECKING:
    import pyarrow as pa

#: rows of one batch on the way to the job's input
BATCH_ROWS = 10_000


class UnknownFrameError(BadInputError):
    """{given} is no frame{remedy}. A frame is {kinds}."""


class ColumnNameError(BadInputError):
    """The frame has {count} columns called {column!r}, and the job reads it; give them different names."""


class FrameColumnError(BadInputError):
    """The column {column!r} cannot be read: {reason}."""


class Frame(Protocol):
    """A table of the caller's. Its own columns are never written anywhere: only those that a job reads are copied."""

    @property
    def num_rows(self) -> int:
        """How many rows it has."""

    @property
    def names(self) -> list[str]:
        """Its columns that have a text for a name, in order; a name stands as often as it is there."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of some columns, in order, at most BATCH_ROWS at once. Raises FrameColumnError."""

    def joined(self, new: pa.Table) -> Any:
        """The caller's table with the columns of `new` behind its own: as many rows, in the same order."""
