"""The rows of a job as its shards are committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from parquetry.output import part_names, read_part
from parquetry.schemas.errors import ExitCode, ParquetryError
from parquetry.schemas.location import Location
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.storage.opening import open_storage

if TYPE_CHECKING:
    import pyarrow as pa

    from parquetry.schemas.progress.status import JobStatus


class JobNotDoneError(ParquetryError):
    """Job {job} is {state}: {rows} of {total} rows are in {output}{reason}."""

    exit_code = ExitCode.FAILED_SHARDS


def committed_tables(statuses: Iterable[JobStatus], columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """Each part once, soon after it is there; `statuses` are those of the job until its end. Raises JobNotDoneError."""
    seen: set[str] = set()
    # the status is asked for first: what was committed before its end is there behind it
    for status in statuses:
        last, storage = status, open_storage(Location.parse(status.output))
        for name in part_names(storage):
            if name not in seen:
                seen.add(name)
                yield read_part(storage, name, columns)
    if last.state is not JobState.DONE:
        raise not_done(last)


def not_done(status: JobStatus) -> JobNotDoneError:
    """Why a job has ended without all of its rows."""
    from parquetry.terminal.display import failure_lines

    reasons = "; ".join(failure_lines(status))
    return JobNotDoneError(
        job=status.job,
        state=status.state,
        rows=f"{status.rows_done:,}",
        total=f"{status.rows:,}",
        output=status.output,
        reason=f": {reasons}" if reasons else "",
    )
