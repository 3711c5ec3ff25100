"""One shard from rows to a verified attempt: read, prepare, send to the engine, collect, restore order, write."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.columns import ERROR, ROW
from schemas.errors import EngineLostError, RowError, ShardFailedError
from schemas.job import ModelSpec
from schemas.manifest import JobRecord
from schemas.shard import Shard
from workers.answers import Answers, Outcome
from workers.checkpoint import Checkpoint
from workers.engine_client import EngineClient
from workers.part import inspect
from workers.preparation import Preparation
from workers.provenance import provenance
from workers.reader import input_schema, kept_columns, read_shard
from workers.request import Result
from workers.tokenization import Tokenizer, Tokens
from workers.writer import PartWriter

#: rows, and tokens, that may be read but not yet written: what bounds the memory of a shard of any size
WINDOW_ROWS = 8192
WINDOW_TOKENS = 4_000_000
_POLL_S = 0.25
_REPORT_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ShardProgress:
    """What a shard has done so far."""

    rows: int = 0
    error_rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """A finished attempt, not yet published."""

    rows: int
    error_rows: int
    prompt_tokens: int
    output_tokens: int
    #: bytes
    size: int
    #: hex digest of the file
    sha256: str
    etag: str = ""


def run_shard(
    record: JobRecord,
    shard: Shard,
    *,
    fence: int,
    attempt: Path,
    engine: EngineClient,
    on_progress: Callable[[ShardProgress], None] = lambda _: None,
) -> PartSummary:
    """Write the shard's output to `attempt` and verify it.

    `on_progress` is called about twice a second and may raise to stop; then, as after any error, the engine forgets
    the shard's requests and the attempt is left without a footer. Rows that fail are error rows, or with
    `on_row_error: fail` a ShardFailedError that names the first. Raises EngineLostError and what reading raises.
    """
    run = _ShardRun(record, shard, fence, attempt, engine, on_progress)
    try:
        run.run()
    except BaseException:
        run.abort()
        raise
    return run.finish()


class _Chunk:
    """One batch of input rows, from reading to writing."""

    def __init__(self, kept: pa.RecordBatch, first_row: int, prepared: list[Tokens | RowError], samples: int) -> None:
        self.kept = kept
        self.first_row = first_row
        self.outcomes = [_outcome(tokens, samples) for tokens in prepared]
        self.num_tokens = sum(outcome.num_prompt_tokens or 0 for outcome in self.outcomes)
        #: results still to come
        self.num_missing = sum(len(outcome.results) for outcome in self.outcomes)


def _outcome(tokens: Tokens | RowError, samples: int) -> Outcome:
    if isinstance(tokens, RowError):
        return Outcome(error=str(tokens))
    return Outcome(num_prompt_tokens=len(tokens.ids), results=[None] * samples)


class _ShardRun:
    def __init__(
        self,
        record: JobRecord,
        shard: Shard,
        fence: int,
        attempt: Path,
        engine: EngineClient,
        on_progress: Callable[[ShardProgress], None],
    ) -> None:
        self._record, self._shard, self._attempt, self._engine = record, shard, attempt, engine
        self._on_progress = on_progress
        self._progress = ShardProgress()
        self._reported_at = 0.0
        spec = record.spec
        checkpoint = Checkpoint.resolve(ModelSpec(id=record.model_path, revision=spec.model.revision))
        tokenizer = Tokenizer.load(checkpoint.folder)
        about = engine.describe()
        schema = input_schema(record)
        self._kept = kept_columns(spec, schema.names)
        self._preparation = Preparation.of(record, checkpoint, tokenizer)
        self._answers = Answers.of(spec, checkpoint, tokenizer, about)
        self._schema = pa.schema([*map(schema.field, self._kept), ROW, *self._answers.fields, ERROR])
        self._batches = read_shard(record, shard, schema)
        self._chunks: deque[_Chunk] = deque()
        #: where each unfinished request's result goes: chunk, row within it, sample
        self._places: dict[int, tuple[_Chunk, int, int]] = {}
        self._num_read = self._next_id = 0
        self._exhausted = False
        self._writer = PartWriter(attempt, self._schema, provenance(record, shard, fence, checkpoint, about))

    def run(self) -> None:
        while not self._exhausted or self._chunks:
            has_read = self._has_room() and self._read()
            self._collect(self._engine.results(0.0 if has_read else self._patience()))
            while self._chunks and not self._chunks[0].num_missing:
                self._write(self._chunks.popleft())
            self._report()

    def _patience(self) -> float:
        return _POLL_S if self._places else 0.0

    def _has_room(self) -> bool:
        rows = sum(len(chunk.outcomes) for chunk in self._chunks)
        tokens = sum(chunk.num_tokens for chunk in self._chunks)
        return not self._exhausted and rows < WINDOW_ROWS and tokens < WINDOW_TOKENS

    def _read(self) -> bool:
        """Take one batch of rows and hand its requests to the engine; False when there are no more."""
        batch = next(self._batches, None)
        if batch is None:
            self._exhausted = True
            return False
        prepared = self._preparation.tokens(batch)
        first_row = self._shard.first_row + self._num_read
        chunk = _Chunk(batch.select(self._kept), first_row, prepared, self._preparation.num_samples)
        self._num_read += batch.num_rows
        self._chunks.append(chunk)
        self._refuse_errors(chunk)
        self._engine.submit(list(self._requests(chunk, prepared)))
        return True

    def _requests(self, chunk: _Chunk, prepared: list[Tokens | RowError]) -> Iterator:
        for index, tokens in enumerate(prepared):
            if isinstance(tokens, RowError):
                continue
            for sample in range(self._preparation.num_samples):
                self._next_id += 1
                self._places[self._next_id] = (chunk, index, sample)
                yield self._preparation.request(self._next_id, tokens, chunk.first_row + index, sample)

    def _collect(self, results: list[Result]) -> None:
        for result in results:
            place = self._places.pop(result.id, None)
            if place is None:
                raise EngineLostError(reason=f"it answered request {result.id}, which nobody made; this is a bug")
            chunk, index, sample = place
            outcome = chunk.outcomes[index]
            outcome.take(sample, result)
            chunk.num_missing -= 1
            self._refuse_error(chunk.first_row + index, outcome)
            if outcome.is_complete and None not in outcome.results:
                self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        done = self._progress
        self._progress = ShardProgress(
            rows=done.rows + 1,
            error_rows=done.error_rows + (outcome.error is not None),
            prompt_tokens=done.prompt_tokens + (outcome.num_prompt_tokens or 0),
            output_tokens=done.output_tokens + outcome.num_output_tokens,
        )

    def _refuse_errors(self, chunk: _Chunk) -> None:
        for index, outcome in enumerate(chunk.outcomes):
            if outcome.error is not None:
                self._refuse_error(chunk.first_row + index, outcome)
                self._count(outcome)

    def _refuse_error(self, row: int, outcome: Outcome) -> None:
        if outcome.error is not None and self._record.spec.on_row_error == "fail":
            reason = f"row {row}: {outcome.error} (on_row_error is fail)"
            raise ShardFailedError(shard=self._shard.index, reason=reason)

    def _write(self, chunk: _Chunk) -> None:
        stop = chunk.first_row + len(chunk.outcomes)
        row = pa.array(np.arange(chunk.first_row, stop), ROW.type)
        errors = pa.array([outcome.error for outcome in chunk.outcomes], ERROR.type)
        columns = [*chunk.kept.columns, row, *self._answers.columns(chunk.outcomes), errors]
        self._writer.write(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            self._on_progress(self._progress)

    def abort(self) -> None:
        """Leave nothing behind that looks finished, neither in the engine nor on disk."""
        with suppress(EngineLostError):
            self._engine.cancel(list(self._places))
        self._writer.abort()

    def finish(self) -> PartSummary:
        """Close the attempt, read it back, and return what it holds."""
        counts = vars(self._progress)
        self._writer.close(counts)
        with self._attempt.open("rb") as file:
            footer = inspect(file, self._attempt.name, self._record, self._shard)
        self._on_progress(replace(self._progress))
        return PartSummary(**counts, size=footer.size, sha256=footer.sha256)
