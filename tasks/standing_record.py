"""The `_job.json` that stands in an output, and another in its place: by whoever has seen it, and only the first."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.schemas.errors import StorageError
from parquetry.schemas.manifest import JOB_FILE, JobRecord
from parquetry.schemas.storage.storage import Storage


@dataclass(frozen=True)
class Standing:
    """The job that a folder belongs to, as its `_job.json` was when it was looked at."""

    record: JobRecord
    data: bytes

    def replace(self, storage: Storage, record: JobRecord) -> bool:
        """Put another record in its place; False when somebody was faster, and nothing changed. Raises StorageError."""
        try:
            return self._replace(storage, record)
        except FileNotFoundError:
            # somebody came after us, and has taken the means from us
            return False
        except StorageError:
            # or has begun to remove what lies there
            if storage.try_read(JOB_FILE) == self.data:
                raise
            return False

    def _replace(self, storage: Storage, record: JobRecord) -> bool:
        with storage.replacement(JOB_FILE) as new:
            new.shut_others()
            if storage.try_read(JOB_FILE) != self.data:
                return False
            new.path.write_bytes(record.stored())
            return new.replace()


def read_standing(storage: Storage) -> Standing | None:
    """The job that the folder belongs to, None without a `_job.json`. Raises what `JobRecord.parse` raises."""
    data = storage.try_read(JOB_FILE)
    return None if data is None else Standing(JobRecord.parse(data, storage.root.join(JOB_FILE)), data)
