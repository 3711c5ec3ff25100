"""One call on a frame: the job that it stands for, run, and the columns that come of it."""

from __future__ import annotations

import hashlib
import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from parquetry.api.shown import shown
from parquetry.frames.call_folder import CallFolder, call_folder, folders_root
from parquetry.frames.frame import ColumnNameError, Frame
from parquetry.frames.new_columns import new_columns, new_fields, require_free_names
from parquetry.frames.opening import open_frame
from parquetry.local.run import FinishedRun, run_job
from parquetry.local.standing import StandingSite, standing_site
from parquetry.producers.draft import located_model
from parquetry.schemas.errors import BadInputError, ExitCode, MissingColumnError, ParquetryError, suggestion
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import JobSpec
from parquetry.spec_file import set_key
from parquetry.terminal.display import failure_lines
from parquetry.workers.shards.reader import used_columns

#: of a job whose prompts take nothing from a row: without any column, rows could not be counted
_COUNTING = "row"


class FrameNotDoneError(ParquetryError):
    """The call's job is {state}: {rows} of {total} rows are done{reason}. They stay in {folder}, and the same call
    continues."""

    exit_code = ExitCode.FAILED_SHARDS


class FarWorkersError(BadInputError):
    """The broker's workers run on other machines ({hosts}), which cannot read a folder of this one; say keep= with a
    folder that all of them share."""


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """What a call says beside its task: see `parquetry.frames.tasks.CallKeys`."""

    prefix: str = ""
    keep: str | Path | None = None
    show: bool | None = None
    workers: int | None = None
    options: Mapping[str, Any] | None = None


def compute(given: Any, sections: Mapping[str, Any], options: CallOptions) -> Any:
    """The caller's table with the columns of the job. Raises a BadInputError before anything is computed.

    Raises FrameNotDoneError where the job has not come to its end.
    """
    frame = open_frame(given)
    spec = _spec(sections, options)
    columns = _read_columns(spec, frame)
    fields = new_fields(spec)
    require_free_names(fields, frame.names, options.prefix)
    if not frame.num_rows:
        return frame.joined(_named(pa.schema(fields).empty_table(), options.prefix))
    return frame.joined(_named(_computed(frame, spec, columns, options), options.prefix))


def _named(table: pa.Table, prefix: str) -> pa.Table:
    return table.rename_columns([f"{prefix}{name}" for name in table.column_names])


def _spec(sections: Mapping[str, Any], options: CallOptions) -> JobSpec:
    """The job, with no place yet for its input and output. Raises a BadInputError."""
    data = {"input": {"path": "rows"}, "output": {"path": "out", "keep": []}}
    data |= {name: dict(section) if isinstance(section, Mapping) else section for name, section in sections.items()}
    for key, value in (options.options or {}).items():
        set_key(data, key, value)
    spec = JobSpec.parse(data)
    return spec.model_copy(update={"model": located_model(spec.model)})


def _read_columns(spec: JobSpec, frame: Frame) -> list[str]:
    """The columns that the job needs. Raises MissingColumnError, ColumnNameError."""
    names = frame.names
    used = used_columns(spec, dict.fromkeys(names))
    counts = Counter(names)
    for column, where in used.items():
        if counts[column] > 1:
            raise ColumnNameError(count=counts[column], column=column)
        if not counts[column] and (names or frame.num_rows):
            known = ", ".join(counts) or "none with a text for a name"
            raise MissingColumnError(where=where, column=column, suggestion=suggestion(column, counts), columns=known)
    return list(used)


def _computed(frame: Frame, spec: JobSpec, columns: list[str], options: CallOptions) -> pa.Table:
    site = standing_site()
    _require_near_workers(site, options)
    root = folders_root(options.keep)
    with call_folder(root, spec.task, _digest(spec), _batches(frame, columns)) as folder:
        run = run_job(_placed(spec, folder), site, shown(options.show), workers=options.workers)
        _require_done(run, folder)
        found = new_columns(str(folder.output), frame.num_rows)
        if options.keep is None:
            _forget(run)
            folder.remove()
        return found


def _batches(frame: Frame, columns: list[str]) -> Iterator[pa.Table]:
    return frame.batches(columns) if columns else iter([pa.table({_COUNTING: pa.nulls(frame.num_rows)})])


def _digest(spec: JobSpec) -> str:
    """Of all that determines the rows that come back but the rows that go in."""
    return hashlib.sha256(json.dumps([spec.fingerprint]).encode()).hexdigest()


def _placed(spec: JobSpec, folder: CallFolder) -> JobSpec:
    given = spec.input.model_copy(update={"path": str(folder.rows)})
    return spec.model_copy(
        update={"input": given, "output": spec.output.model_copy(update={"path": str(folder.output)})}
    )


def _require_near_workers(site: StandingSite, options: CallOptions) -> None:
    """Raise FarWorkersError where another machine might claim a shard whose rows it cannot read."""
    if settings().broker_url is None or options.keep is not None:
        return
    with site.broker() as (_, ledger):
        hosts = sorted({worker.host for worker in ledger.workers()} - {socket.gethostname()})
    if hosts:
        raise FarWorkersError(hosts=", ".join(hosts[:3]))


def _require_done(run: FinishedRun, folder: CallFolder) -> None:
    status = run.status
    if status.state is not JobState.DONE:
        reasons = "; ".join(failure_lines(status)) or ("its budget is spent" if status.why == "budget" else "")
        raise FrameNotDoneError(
            state=status.state,
            rows=f"{status.rows_done:,}",
            total=f"{status.rows:,}",
            reason=f": {reasons}" if reasons else "",
            folder=folder.path,
        )


def _forget(run: FinishedRun) -> None:
    """The queue has nothing to say of a job whose files go. It goes first: without files it would seem to be lost."""
    from parquetry.producers.purge import purge

    if run.ledger is not None:
        purge(run.ledger, run.status.job)
