"""A job's output looked at: by the job that the broker knows, or by its folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parquetry.broker import open_ledger
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage

if TYPE_CHECKING:
    from parquetry.tasks.ledger.ledger import Ledger
    from parquetry.tasks.report.error_groups import ErrorGroup
    from parquetry.tasks.report.job_report import JobReport


class FinishedWork:
    """What there is to read of a job: its output, and the ledger that knows it where one does."""

    def __init__(self, storage: Storage, record: JobRecord, ledger: Ledger | None) -> None:
        self.storage = storage
        self.record = record
        self.ledger = ledger

    @classmethod
    def open(cls, name: str) -> FinishedWork:
        """The job of this name, or of this output folder or URI.

        Raises UnknownJobError, NoBrokerError, UnreadableFileError, StorageError.
        """
        from parquetry.tasks.job_record import read_record

        if _is_output(name):
            storage = open_storage(Location.parse(name))
            return cls(storage, read_record(storage), None)
        ledger = open_ledger()
        status = ledger.status(ledger.find(name), max_failures=0)
        return cls.of_job(status.job, status.output, ledger)

    @classmethod
    def of_job(cls, job: str, output: str, ledger: Ledger | None) -> FinishedWork:
        """The job of this id, whose output is known. Raises UnreadableFileError, StorageError."""
        from parquetry.tasks.job_record import read_record

        storage = open_storage(Location.parse(output))
        return cls(storage, read_record(storage, job), ledger)

    def errors(self) -> list[ErrorGroup]:
        """Every error row of its committed parts, by reason."""
        from parquetry.tasks.report.error_groups import error_groups, shards_with_errors
        from parquetry.tasks.report.written_rows import WrittenRows

        shards = shards_with_errors(self.storage, self.record, self.ledger)
        return error_groups(WrittenRows(self.storage, self.record), shards)

    def report(self) -> JobReport:
        """What ran and how it went, as of now."""
        from parquetry.tasks.kept_history import read_history
        from parquetry.tasks.report.job_report import JobReport
        from parquetry.tasks.report.publishing import gather

        if self.ledger is not None:
            return gather(self.ledger, self.ledger.status(self.record.job))
        return JobReport.of_output(self.storage, self.record, read_history(self.storage, self.record.job))


def _is_output(name: str) -> bool:
    """Whether a name is that of a folder; a job's id or name has neither a slash nor a record in it."""
    return "/" in name or name in (".", "..") or (Path(name) / "_job.json").is_file()
