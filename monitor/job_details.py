"""What the page shows of one job besides its numbers: rates, shards, rows, errors, spec, events; plain data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from parquetry.schemas.errors import BadInputError, ParquetryError
from parquetry.schemas.progress.events import JobEvent, ShardEnd
from parquetry.schemas.progress.history import HistoryPoint, JobHistory
from parquetry.schemas.progress.states import JobState, ShardState
from parquetry.schemas.progress.status import JobStatus
from parquetry.tasks.kept_history import read_history
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.report.error_groups import ErrorGroup, error_groups, shards_with_errors
from parquetry.tasks.report.outcome import Outcome
from parquetry.tasks.report.page import report_page
from parquetry.tasks.report.predicted import predicted_lines
from parquetry.tasks.report.publishing import gather
from parquetry.tasks.report.rates import Rates
from parquetry.tasks.report.spec_lines import spec_lines
from parquetry.tasks.report.written_rows import NoPartError, WrittenRows

#: shards that one look for errors reads, and shards of a job beyond which it reads the last ones only
MAX_ERROR_SHARDS = 20
MAX_LISTED_SHARDS = 20_000


class NoShardError(BadInputError):
    """Job {job} has the shards 0 to {last}, and no {shard}."""


class JobDetails:
    """Over one ledger, and the outputs that this machine can read."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def rates(self, job: str) -> dict[str, Any]:
        """Rates over time, in columns."""
        return Rates.of(self._points(self.ledger.status(job, max_failures=0))).as_dict()

    def shards(self, job: str, first: int, count: int | None) -> dict[str, Any]:
        """Shards by state, in cells."""
        status = self.ledger.status(job, max_failures=0)
        first = min(max(first, 0), max(status.shards - 1, 0))
        count = min(max(count or status.shards, 1), status.shards - first)
        cells = self.ledger.shards.cells(status.job, first, max(count, 0)).model_dump()
        return {**cells, "shards": status.shards, "rows": status.rows}

    def shard(self, job: str, shard: int) -> dict[str, Any]:
        """All that is known of one shard. Raises NoShardError."""
        status = self.ledger.status(job, max_failures=0)
        if not 0 <= shard < status.shards:
            raise NoShardError(job=status.job, shard=shard, last=status.shards - 1)
        known = self.ledger.shards.shard(status.job, shard).model_dump(mode="json")
        ended = next((end for end in reversed(self.ends(status)) if end.shard == shard), None)
        if known["state"] == ShardState.COMMITTED and known["ended"] is None and ended is not None:
            known |= {
                "ended": ended.at_ms / 1000,
                "took_s": ended.took_ms / 1000 or None,
                "worker": ended.worker or None,
            }
        events = [event._asdict() for event in self.events(status) if event.shard == shard]
        return {**known, "events": events, **self._on_disk(status, shard, known["state"] == ShardState.COMMITTED)}

    def rows(self, job: str, shard: int | None, first: int, count: int) -> dict[str, Any]:
        """Some rows of a committed shard, by default of the last one. Raises NoPartError, StorageError."""
        status = self.ledger.status(job, max_failures=0)
        shard = self._newest(status) if shard is None else shard
        return WrittenRows.of(status.output, status.job).rows(shard, max(first, 0), count)

    def errors(self, job: str, *, with_input: bool = True) -> dict[str, Any]:
        """Error rows by reason: the counts of all, examples from some of the shards that have any."""
        status = self.ledger.status(job)
        groups = {group.kind: group for group in self._examples(status, with_input)}
        known = {kind: status.errors.get(kind, 0) for kind in (*status.errors, *groups)}
        ordered = sorted(known, key=lambda kind: (-(known[kind] or groups[kind].rows), kind))
        found = [_with_count(groups.get(kind) or ErrorGroup(kind=kind, rows=0), known[kind]) for kind in ordered]
        return {"groups": [group.model_dump() for group in found], "error_rows": status.error_rows}

    def about(self, job: str) -> dict[str, Any]:
        """Spec key by key, provenance, where its files are."""
        status = self.ledger.status(job, max_failures=0)
        written = WrittenRows.of(status.output, status.job)
        record = written.record
        files = [
            {"path": file.path, "rows": file.num_rows, "bytes": file.size} for file in record.shard_plan.files[:50]
        ]
        return {
            "spec": [line.model_dump() for line in spec_lines(record.spec)],
            "created": record.created,
            "model_path": record.model_path,
            "files": files,
            "num_files": len(record.shard_plan.files),
            "provenance": self._provenance(status, written),
            "prediction": predicted_lines(Outcome.of_status(status)),
        }

    def report(self, job: str) -> str:
        """The job's report as it would be written now, a whole page. Raises StorageError."""
        return report_page(gather(self.ledger, self.ledger.status(job)))

    def happened(self, job: str) -> dict[str, Any]:
        """Events and the last shards, the newest first."""
        status = self.ledger.status(job, max_failures=0)
        events = [event._asdict() for event in reversed(self.events(status))]
        return {"events": events, "ends": [end._asdict() for end in list(reversed(self.ends(status)))[:100]]}

    def events(self, status: JobStatus) -> list[JobEvent]:
        """What happened, in the order of time: as the queue knows it, else as the output does."""
        known = self.ledger.shards.events(status.job)
        kept = self._kept(status) if status.state.is_final else None
        return sorted(dict.fromkeys((*(kept.events if kept else ()), *known)), key=lambda event: event.at_ms)

    def ends(self, status: JobStatus) -> list[ShardEnd]:
        """The shards that were committed last, in the order of time."""
        known = self.ledger.shards.ends(status.job)
        kept = self._kept(status) if status.state.is_final and not known else None
        return known or list(kept.ends if kept else ())

    def _points(self, status: JobStatus) -> list[HistoryPoint]:
        """The history in full: the queue thins that of a job that is done."""
        kept = self._kept(status) if status.state is JobState.DONE else None
        return list(kept.read() if kept else self.ledger.history(status.job))

    def _kept(self, status: JobStatus) -> JobHistory | None:
        try:
            return read_history(WrittenRows.of(status.output, status.job).storage, status.job)
        except ParquetryError:
            # the output may lie where this machine does not reach; then what the queue knows is all
            return None

    def _newest(self, status: JobStatus) -> int:
        ends = self.ends(status)
        if ends:
            return ends[-1].shard
        if status.state is JobState.DONE:
            return 0
        done = self.ledger.shards.cells(status.job, 0, status.shards, status.shards).done
        shard = next((shard for shard, is_done in enumerate(done) if is_done), None)
        if shard is None:
            raise NoPartError(shard="any", job=status.job)
        return shard

    def _examples(self, status: JobStatus, with_input: bool) -> list[ErrorGroup]:
        if not status.error_rows:
            return []
        written = WrittenRows.of(status.output, status.job)
        shards = islice(self._with_errors(status, written), MAX_ERROR_SHARDS)
        return error_groups(written, shards, with_input=with_input)

    def _with_errors(self, status: JobStatus, written: WrittenRows) -> Iterator[int]:
        recent = [end.shard for end in reversed(self.ends(status)) if end.error_rows]
        yield from recent
        if status.shards <= MAX_LISTED_SHARDS:
            all_of_them = shards_with_errors(written.storage, written.record, self.ledger)
            yield from (shard for shard in all_of_them if shard not in set(recent))

    def _provenance(self, status: JobStatus, written: WrittenRows) -> dict[str, str]:
        try:
            return written.footer(self._newest(status))
        except NoPartError:
            return {}

    def _on_disk(self, status: JobStatus, shard: int, is_done: bool) -> dict[str, Any]:
        """Rows of the shard, and the file of a committed one; what storage does not tell stays away."""
        try:
            written = WrittenRows.of(status.output, status.job)
            bounds = written.record.shard_plan.bounds
            found: dict[str, Any] = {"first_row": bounds[shard], "stop_row": bounds[shard + 1]}
            return (
                {**found, "bytes": written.modified_size(shard), "footer": written.footer(shard)} if is_done else found
            )
        except ParquetryError as error:
            return {"unreadable": str(error)}


def _with_count(group: ErrorGroup, rows: int) -> ErrorGroup:
    return group.model_copy(update={"rows": max(rows, group.rows)})
