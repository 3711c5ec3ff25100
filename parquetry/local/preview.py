"""The first rows of a job run for real, into a folder that is thrown away: `plan --rows`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parquetry.local.run import run_job
from parquetry.output import read_output
from parquetry.schemas.errors import ExitCode, ParquetryError
from parquetry.schemas.job import JobSpec
from parquetry.schemas.states import JobState
from parquetry.terminal.display import failure_lines
from parquetry.workers.process.owned_folder import owned_folder

if TYPE_CHECKING:
    import pyarrow as pa


class PreviewFailedError(ParquetryError):
    """The first {rows} rows did not run: {reason}"""

    exit_code = ExitCode.FAILED_SHARDS


def preview_rows(spec: JobSpec, rows: int) -> pa.Table:
    """The output of the first `rows` rows, run for real. Raises PreviewFailedError."""
    with owned_folder("parquetry-preview-") as owned:
        # its lock lies beside the output, which begins empty
        folder = str(owned / "out")
        finished = run_job(limited(spec, rows, folder), show=True)
        if finished.status.state is not JobState.DONE:
            raise PreviewFailedError(rows=rows, reason="; ".join(failure_lines(finished.status)))
        return read_output(folder)


def limited(spec: JobSpec, rows: int, folder: str) -> JobSpec:
    """`spec` on its first rows only, written to `folder`; nobody is notified."""
    limit = min(rows, spec.input.limit or rows)
    return spec.model_copy(
        update={
            "input": spec.input.model_copy(update={"limit": limit}),
            "output": spec.output.model_copy(update={"path": folder}),
            "notify": [],
        }
    )
