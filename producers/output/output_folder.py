"""Checks of an output folder before a job runs: whose it is, and that nothing in it could pass for a part."""

from __future__ import annotations

from parquetry.producers.inputs.source import Source
from parquetry.schemas.errors import (
    NewerRecordError,
    OutputInsideInputError,
    OutputNotEmptyError,
    OutputTakenError,
    UnreadableFileError,
)
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import ATTEMPTS_FOLDER, JOB_FILE, REPORT_FILE
from parquetry.schemas.progress.history import HISTORY_FILE
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.standing_record import Standing, read_standing

_MAX_NAMED = 3


def find_standing(storage: Storage) -> Standing | None:
    """The job that the folder belongs to, None without a `_job.json`.

    Raises OutputTakenError if unreadable, RecordChangedError if somebody has edited it.
    """
    try:
        return read_standing(storage)
    except (UnreadableFileError, NewerRecordError) as error:
        raise OutputTakenError(path=storage.root, job=str(error).rstrip(".")) from None


def give_up(storage: Storage) -> bool:
    """Let the folder of a job that ended without a part be anybody's again; False when it holds parts."""
    if storage.list("part-"):
        return False
    storage.discard_attempts()
    storage.delete(HISTORY_FILE)
    storage.delete(REPORT_FILE)
    # last: until it is gone, the folder is the job's
    storage.delete(JOB_FILE)
    return True


def require_empty(storage: Storage) -> None:
    """Raise OutputNotEmptyError when the folder holds files; hidden ones and old attempts do not count.

    A folder with a `_job.json` passes: another submission was faster, and our own `_job.json` will be refused.
    """
    foreign = [entry.path for entry in storage.list() if not _is_harmless(entry.path)]
    if foreign and JOB_FILE not in foreign:
        more = f" and {len(foreign) - _MAX_NAMED} more" if len(foreign) > _MAX_NAMED else ""
        raise OutputNotEmptyError(path=storage.root, files=", ".join(foreign[:_MAX_NAMED]) + more)


def _is_harmless(path: str) -> bool:
    return path.startswith((".", f"{ATTEMPTS_FOLDER}/"))


def require_outside_input(spec: JobSpec) -> None:
    """Raise OutputInsideInputError when parts written to the output would be read as input the next time."""
    output = Location.parse(spec.output.path)
    paths = [spec.input.path] if isinstance(spec.input.path, str) else spec.input.path
    inside = next((text for text in paths if Source.parse(text).may_hold(output)), None)
    if inside is not None:
        raise OutputInsideInputError(path=output, input=inside)
