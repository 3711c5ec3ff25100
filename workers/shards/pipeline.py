"""One shard from rows to a verified attempt: read, prepare, send to the engine, collect, restore order, write."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa

from parquetry.schemas.errors import EngineLostError, JobStoppedError, LeaseLostError, ShardFailedError
from parquetry.schemas.manifest import JobRecord, PartRecord
from parquetry.schemas.progress.states import JobState
from parquetry.schemas.shard import Shard
from parquetry.schemas.spec.columns import ERROR, ROW
from parquetry.workers.preparation.tokenization import Tokens
from parquetry.workers.process.client import EngineAccess
from parquetry.workers.request import Request, Result
from parquetry.workers.shards.ahead import Ahead
from parquetry.workers.shards.clock import StageClocks
from parquetry.workers.shards.merge import Merge
from parquetry.workers.shards.part import inspect
from parquetry.workers.shards.pending_rows import Outcome, PendingRows, PreparedRow
from parquetry.workers.shards.seals.seal_folder import SealFolder
from parquetry.workers.shards.shard_progress import ShardProgress, ShardTimes, Tally
from parquetry.workers.shards.stages import Prepared, Stages

log = logging.getLogger(__name__)
#: rows, and tokens, that may be read but not yet written: what bounds the memory of a shard of any size
MAX_IN_FLIGHT_ROWS = 16_384
MAX_IN_FLIGHT_TOKENS = 4_000_000
#: the same in bytes of images and of kept columns
MAX_IN_FLIGHT_BYTES = 256 << 20
#: longest wait for results, and for a batch of rows while results may come
_POLL_S = 0.25
_SOON_S = 0.005
_REPORT_EVERY_S = 0.25
OnProgress = Callable[[ShardProgress], None]


def run_shard(
    record: JobRecord,
    shard: Shard,
    *,
    fence: int,
    attempt: Path,
    engine: EngineAccess,
    on_progress: OnProgress = lambda _: None,
    seals: SealFolder | None = None,
    num_withheld: int = 0,
    merge: Merge | None = None,
    clocks: StageClocks | None = None,
) -> PartRecord:
    """Write the shard's output to `attempt` and verify it.

    With `merge` only its rows are computed, and the attempt holds them among the rows that its part has already.
    Finished rows are sealed in `seals` meanwhile, and rows that earlier attempts have sealed there are not computed
    again, but for the first `num_withheld`.
    `clocks` tell where the time goes. `on_progress` is called about four times a second and may raise to stop; then, as
    after any error, the engine forgets the shard's requests and the attempt is left without a footer. Rows that fail
    are error rows, or with `on_row_error: fail` a ShardFailedError that names the first. Raises EngineLostError and
    what reading raises.
    """
    stages = Stages.open(record, shard, fence, attempt, engine.describe(), seals, num_withheld, merge, clocks)
    # three at once: rows are read while those before them are tokenized, and answers of earlier ones are taken
    with closing(Ahead(stages.batches)) as batches, closing(Ahead(stages.prepared(batches))) as ahead:
        run = _ShardRun(record, shard, stages, ahead, engine, on_progress)
        try:
            run.run()
            stages.writer.close(run.tally.counts, stages.repairs, run.tally.error_kinds)
        except BaseException as error:
            run.abort(will_go_on=_will_go_on(error))
            raise
        stages.sealer.close(will_go_on=False)
    return _verified(record, shard, attempt).model_copy(update=asdict(run.times) | run.tally.reused)


def _will_go_on(error: BaseException) -> bool:
    """Whether another attempt may begin where one that ended so has left off."""
    if isinstance(error, JobStoppedError):
        return error.fields.get("state") is not JobState.CANCELLED
    return isinstance(error, Exception) and not isinstance(error, (LeaseLostError, ShardFailedError))


class _ShardRun:
    """The loop that feeds the engine, collects its results and writes complete rows in order."""

    def __init__(
        self,
        record: JobRecord,
        shard: Shard,
        stages: Stages,
        ahead: Ahead[Prepared],
        engine: EngineAccess,
        on_progress: OnProgress,
    ) -> None:
        self._fails_on_row_error = record.spec.on_row_error == "fail"
        self._shard, self._stages, self._ahead, self._engine = shard, stages, ahead, engine
        self._on_progress = on_progress
        max_output = record.spec.generation.max_new_tokens if record.spec.task == "generate" else 0
        self.tally = Tally(stages.preparation.num_samples, max_output)
        self._begun = time.monotonic()
        self._reported_at = 0.0
        self._pending: deque[PendingRows] = deque()
        #: where each unfinished request's result goes: pending rows, row within them, sample
        self._unanswered: dict[int, tuple[PendingRows, int, int]] = {}
        #: of the rows that are still to be read
        self._numbers = iter(stages.numbers)
        self._next_id = 0
        self._exhausted = False

    def run(self) -> None:
        while not self._exhausted or self._pending:
            has_room = self._has_room()
            if has_room:
                self._read()
            self._collect(self._engine.results(_POLL_S if self._unanswered and not has_room else 0.0))
            while self._pending and self._pending[0].is_complete:
                self._write(self._pending.popleft())
            self._report()
            # behind that, so that nobody seals who knows that he has lost the shard
            self._stages.sealer.tick()
        done = self.tally.progress()
        self._on_progress(done)
        if done.reused_rows:
            log.info("%d of %d rows were sealed by earlier attempts", done.reused_rows, self._shard.num_rows)

    @property
    def times(self) -> ShardTimes:
        """Where the time went so far."""
        return ShardTimes(
            shard_ms=round(1000 * (time.monotonic() - self._begun)),
            prepare_ms=self._stages.clocks.prepare.ms,
            write_ms=self._stages.clocks.write.ms,
        )

    def _has_room(self) -> bool:
        rows = sum(pending.num_rows for pending in self._pending)
        tokens = sum(pending.num_tokens for pending in self._pending)
        size = sum(pending.num_bytes for pending in self._pending)
        return (
            not self._exhausted
            and rows < MAX_IN_FLIGHT_ROWS
            and tokens < MAX_IN_FLIGHT_TOKENS
            and size < MAX_IN_FLIGHT_BYTES
        )

    def _read(self) -> None:
        """Submit the next batch of rows to the engine, if it is prepared within a moment."""
        if not self._ahead.is_ready(_SOON_S if self._unanswered else _POLL_S):
            return
        prepared = self._ahead.take()
        if prepared is None:
            self._exhausted = True
        else:
            self._submit(*prepared)

    def _submit(self, batch: pa.RecordBatch, rows: list[PreparedRow]) -> None:
        preparation = self._stages.preparation
        numbers = list(islice(self._numbers, batch.num_rows))
        pending = PendingRows(batch.select(self._stages.kept), numbers, rows, preparation.samples)
        self._pending.append(pending)
        for row, outcome in pending.refused():
            self._settle(row, outcome)
        for outcome in pending.reused():
            self.tally.reuse(outcome)
        if requests := list(self._requests(pending, rows)):
            self._stages.clocks.compute.touch()
            self._engine.submit(requests)

    def _requests(self, pending: PendingRows, prepared: list[PreparedRow]) -> Iterator[Request]:
        preparation = self._stages.preparation
        for index, tokens in enumerate(prepared):
            if not isinstance(tokens, Tokens):
                continue
            for sample in range(preparation.samples(tokens)):
                self._next_id += 1
                self._unanswered[self._next_id] = (pending, index, sample)
                yield preparation.request(self._next_id, tokens, pending.numbers[index], sample)

    def _collect(self, results: list[Result]) -> None:
        if results:
            self._stages.clocks.compute.touch()
        for result in results:
            asked = self._unanswered.pop(result.id, None)
            if asked is None:
                raise EngineLostError(reason=f"it answered request {result.id}, which nobody made; this is a bug")
            pending, index, sample = asked
            outcome = pending.take(index, sample, result)
            self.tally.answer(outcome, result)
            if outcome.is_complete:
                self._settle(pending.numbers[index], outcome)
                self._stages.sealer.add(pending.numbers[index], outcome)

    def _settle(self, row: int, outcome: Outcome) -> None:
        """Count a finished row; with `on_row_error: fail`, raise ShardFailedError for one with an error."""
        if outcome.error is not None and self._fails_on_row_error:
            reason = f"row {row}: {outcome.error} (on_row_error is fail)"
            raise ShardFailedError(shard=self._shard.index, reason=reason)
        self.tally.add(outcome)

    def _write(self, pending: PendingRows) -> None:
        row = pa.array(pending.numbers, ROW.type)
        errors = pa.array([outcome.error for outcome in pending.outcomes], ERROR.type)
        columns = [*pending.kept.columns, row, *self._stages.answers.columns(pending.outcomes), errors]
        with self._stages.clocks.write:
            self._stages.writer.write(pa.RecordBatch.from_arrays(columns, schema=self._stages.schema))

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            self._on_progress(self.tally.progress(self._engine.under_way()))

    def abort(self, *, will_go_on: bool) -> None:
        """Cancel what the engine still holds, and leave the attempt without a footer, so that it is no valid file.

        What is finished is sealed if another attempt `will_go_on`.
        """
        with suppress(EngineLostError):
            self._engine.cancel(list(self._unanswered))
        self._stages.writer.abort()
        self._stages.sealer.close(will_go_on=will_go_on)
        num_sealed, num_finished = self._stages.sealer.num_sealed, self.tally.counts.rows
        log.info("ends with %d of %d rows finished; it has sealed %d", num_finished, self._shard.num_rows, num_sealed)


def _verified(record: JobRecord, shard: Shard, attempt: Path) -> PartRecord:
    """What the closed attempt holds, read back from the disk."""
    with attempt.open("rb") as file:
        return inspect(file, attempt.name, record, shard)
