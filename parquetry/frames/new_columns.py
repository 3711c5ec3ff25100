"""The columns that a job adds to a frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pyarrow as pa

from parquetry.output import read_output
from parquetry.schemas.errors import BadInputError, PermanentError
from parquetry.schemas.spec.columns import ERROR, ROW, task_fields
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.pooling import Pooling


class TakenColumnError(BadInputError):
    """The frame has a column {column!r}, and the job adds one of that name: prefix="x_" puts x_ before the names of all
    that it adds; or rename yours."""


class RowsLostError(PermanentError):
    """The output {path} has not each of the {rows} rows once; that is a fault of ours, and nothing was joined."""


def new_fields(spec: JobSpec) -> list[pa.Field]:
    """The columns that the job adds, in their order. Raises ModelNotFoundError."""
    if spec.task not in ("classify", "embed"):
        return [*task_fields(spec), ERROR]
    checkpoint = Checkpoint.resolve(spec.model)
    width = _width(spec, checkpoint) if spec.task == "embed" else None
    return [*task_fields(spec, embedding_dim=width, per_token=checkpoint.is_token_classifier), ERROR]


def _width(spec: JobSpec, checkpoint: Checkpoint) -> int:
    """Numbers of a vector; 0 where only the model itself tells."""
    pooling = checkpoint.pooling or Pooling({}, normalize=False)
    mode = pooling.mode if spec.embed.pooling == "auto" else spec.embed.pooling
    width = 0 if checkpoint.hidden_size is None else pooling.width(checkpoint.hidden_size, mode)
    return spec.embed.dimensions or width


def require_free_names(fields: Sequence[pa.Field], names: Collection[str], prefix: str) -> None:
    """Raise TakenColumnError where a new column would be called like one of the frame's."""
    taken = next((name for field in fields if (name := f"{prefix}{field.name}") in names), None)
    if taken is not None:
        raise TakenColumnError(column=taken)


def new_columns(output: str, num_rows: int) -> pa.Table:
    """What the job has written of every row, in the order of the rows. Raises RowsLostError."""
    table = read_output(output)
    if table[ROW.name].to_pylist() != list(range(num_rows)):
        raise RowsLostError(path=output, rows=num_rows)
    return table.drop_columns([ROW.name]).combine_chunks()
