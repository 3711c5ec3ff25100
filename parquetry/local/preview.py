"""The first rows of a job run for real, into a folder that is thrown away: `plan --rows`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from parquetry.local.run import run_job
from parquetry.local.site import OwnSite
from parquetry.output import read_output
from parquetry.producers.plan.duration import MeasuredRows
from parquetry.schemas.errors import ExitCode, ParquetryError
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.progress.status import JobStatus
from parquetry.schemas.spec.columns import reserved_names
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.opening import open_storage
from parquetry.tasks.kept_history import kept_history
from parquetry.terminal.bars import live_display
from parquetry.terminal.display import console, failure_lines
from parquetry.workers.process.owned_folder import owned_folder
from parquetry.workers.shards.reader import used_columns

if TYPE_CHECKING:
    import pyarrow as pa


class PreviewFailedError(ParquetryError):
    """The first {rows} rows did not run: {reason}"""

    exit_code = ExitCode.FAILED_SHARDS


@dataclass(frozen=True)
class Preview:
    """Rows that were run for real, and how long that took."""

    table: pa.Table
    measured: MeasuredRows


def preview_rows(spec: JobSpec, rows: int) -> Preview:
    """The first `rows` rows run for real, their input beside their output. Raises PreviewFailedError."""
    with owned_folder("parquetry-preview-") as owned:
        # its lock lies beside the output, which begins empty
        folder = str(owned / "out")
        finished = run_job(limited(spec, rows, folder), OwnSite(), live_display(console(stderr=True)))
        if finished.status.state is not JobState.DONE:
            raise PreviewFailedError(rows=rows, reason="; ".join(failure_lines(finished.status)))
        return Preview(table := read_output(folder), _measured(finished.status, table))


def _measured(status: JobStatus, table: pa.Table) -> MeasuredRows:
    """What the rows took."""
    points = kept_history(open_storage(Location.parse(status.output)), status.job)
    return MeasuredRows(table.num_rows, status.active_seconds, _output_tokens(table), points)


def _output_tokens(table: pa.Table) -> list[int]:
    """Of each row that has an output, all its samples together."""
    if "output_tokens" not in table.column_names:
        return []
    found = [tokens for tokens in table["output_tokens"].to_pylist() if tokens is not None]
    return [sum(tokens) if isinstance(tokens, list) else tokens for tokens in found]


def limited(spec: JobSpec, rows: int, folder: str) -> JobSpec:
    """`spec` on its first rows only, written to `folder`; nobody is notified."""
    limit = min(rows, spec.input.limit or rows)
    return spec.model_copy(
        update={
            "input": spec.input.model_copy(update={"limit": limit}),
            "output": spec.output.model_copy(update={"path": folder, "keep": _shown_columns(spec)}),
            "notify": [],
        }
    )


def _shown_columns(spec: JobSpec) -> list[str] | None:
    """Those that are kept, and those that a prompt is made of, unless an output's column has the name."""
    if spec.output.keep is None:
        return None
    used = [name for name in used_columns(spec) if name not in reserved_names(spec)]
    return list(dict.fromkeys([*spec.output.keep, *used]))
