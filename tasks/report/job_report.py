"""All that a report of a job says, gathered from its output and, while that knows it, from the queue."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pydantic import BaseModel

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.events import JobEvent
from parquetry.schemas.progress.history import HistoryPoint, JobHistory
from parquetry.schemas.storage.storage import Storage
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.report.error_groups import ErrorGroup, error_groups, shards_with_errors
from parquetry.tasks.report.outcome import Outcome
from parquetry.tasks.report.predicted import predicted_lines
from parquetry.tasks.report.rates import Rates
from parquetry.tasks.report.spec_lines import SpecLine, spec_lines
from parquetry.tasks.report.written_rows import WrittenRows

#: shards that are read for examples of error rows
MAX_SHARDS = 20
#: of provenance, what is of one part alone
OF_A_PART = ("job", "shard", "fence", "rows", "error_rows", "prompt_tokens", "output_tokens", "input", "errors")


class JobReport(BaseModel):
    """What ran, how it went, what it cost, with what it was computed."""

    outcome: Outcome
    task: str
    model: str
    output: str
    rates: dict[str, Any]
    errors: list[ErrorGroup]
    spec: list[SpecLine]
    provenance: dict[str, str]
    #: the first input files: path, rows, bytes
    files: list[tuple[str, int, int]]
    num_files: int
    events: list[JobEvent] = []
    #: predicted and actual, line by line
    prediction: list[dict[str, Any]] = []

    @classmethod
    def of(
        cls,
        storage: Storage,
        record: JobRecord,
        outcome: Outcome,
        points: tuple[HistoryPoint, ...] = (),
        events: tuple[JobEvent, ...] = (),
        ledger: Ledger | None = None,
    ) -> JobReport:
        """Reads a few parts at most. Raises StorageError, UnreadableFileError."""
        written, files = WrittenRows(storage, record), record.shard_plan.files
        return cls(
            outcome=outcome,
            task=record.spec.task,
            model=record.spec.model.id,
            output=record.spec.output.path,
            rates=Rates.of(points).as_dict(),
            errors=_errors(written, outcome, ledger),
            spec=spec_lines(record.spec),
            provenance=_provenance(written, outcome),
            files=[(file.path, file.num_rows, file.size) for file in files[:20]],
            num_files=len(files),
            events=list(events),
            prediction=predicted_lines(outcome),
        )

    @classmethod
    def of_output(cls, storage: Storage, record: JobRecord, history: JobHistory | None) -> JobReport:
        """From the output alone."""
        outcome = Outcome.of_output(storage, record, history)
        return cls.of(storage, record, outcome, history.read() if history else (), history.events if history else ())


def _errors(written: WrittenRows, outcome: Outcome, ledger: Ledger | None) -> list[ErrorGroup]:
    """Groups with the counts of all parts, and examples from the first that have any."""
    if not outcome.error_rows:
        return []
    shards = islice(shards_with_errors(written.storage, written.record, ledger), MAX_SHARDS)
    found = {group.kind: group for group in error_groups(written, shards)}
    for kind, rows in outcome.errors.items():
        group = found.setdefault(kind, ErrorGroup(kind=kind, rows=0))
        group.rows = max(group.rows, rows)
    return sorted(found.values(), key=lambda group: (-group.rows, group.kind))


def _provenance(written: WrittenRows, outcome: Outcome) -> dict[str, str]:
    """What the footer of the first part tells that is true of all."""
    for shard in range(min(outcome.shards, 100)):
        try:
            keys = written.footer(shard)
        except ParquetryError:
            continue
        return {key: value for key, value in keys.items() if value and key not in OF_A_PART}
    return {}
