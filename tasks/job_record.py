"""Reads `_job.json`: the spec and shard plan of a job, which live in its output and nowhere else."""

from __future__ import annotations

from functools import lru_cache

from parquetry.schemas.errors import OutputTakenError, RecordChangedError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JOB_FILE, JobRecord
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage


def read_record(storage: Storage, job: str | None = None, digest: str = "") -> JobRecord:
    """The record of an output, which must be of `job` and continue `digest` when these are given.

    Raises RecordChangedError when somebody has edited it, OutputTakenError, NewerRecordError, UnreadableFileError,
    StorageError.
    """
    path = storage.root.join(JOB_FILE)
    record = JobRecord.parse(storage.read(JOB_FILE), path)
    if job is not None and record.job != job:
        raise OutputTakenError(path=storage.root, job=record.job)
    if digest and not record.continues(digest):
        raise RecordChangedError(job=record.job, path=path)
    return record


def cached_record(output: str, job: str, digest: str = "") -> JobRecord:
    """The same, read once by a process unless it has changed: a shard plan of a million is worth keeping."""
    entry = open_storage(Location.parse(output)).head(JOB_FILE)
    return _record_of(output, job, digest, entry.etag if entry else "")


@lru_cache(maxsize=4)
def _record_of(output: str, job: str, digest: str, etag: str) -> JobRecord:
    # an output that was deleted and begun anew has another shard plan under the same job and path
    return read_record(open_storage(Location.parse(output)), job, digest)
