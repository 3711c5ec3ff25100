"""What a row passes through before and after the engine: reading, preparation, answers, part, seals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.settings import settings
from parquetry.schemas.shard import Shard
from parquetry.schemas.spec.columns import ERROR, ROW
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.preparation import Preparation
from parquetry.workers.preparation.preparation_choice import choose_preparation
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.reading.conform import Repairs
from parquetry.workers.reading.input_rows import InputRows
from parquetry.workers.shards.answers import Answers
from parquetry.workers.shards.answers_choice import choose_answers
from parquetry.workers.shards.clock import StageClocks
from parquetry.workers.shards.merge import Merge, MergingWriter
from parquetry.workers.shards.pending_rows import Outcome, PreparedRow
from parquetry.workers.shards.provenance import provenance
from parquetry.workers.shards.reader import cut_batches, input_schema, kept_columns, read_shard
from parquetry.workers.shards.seals.identity import seal_identity
from parquetry.workers.shards.seals.reused_rows import ReusedRows
from parquetry.workers.shards.seals.seal_folder import SealFolder
from parquetry.workers.shards.seals.sealer import Sealer
from parquetry.workers.shards.writer import PartWriter

#: rows as they were read, and what is known of each
Prepared = tuple[pa.RecordBatch, list[PreparedRow]]


@dataclass(frozen=True)
class Stages:
    """All of them for one attempt at a shard."""

    first_row: int
    batches: Iterator[InputRows]
    preparation: Preparation
    answers: Answers
    #: input columns the output carries
    kept: list[str]
    schema: pa.Schema
    writer: PartWriter | MergingWriter
    #: positions in the job's input of the rows that are read
    numbers: Sequence[int]
    sealer: Sealer
    reused: ReusedRows
    #: grows while rows are read
    repairs: Repairs
    clocks: StageClocks

    @classmethod
    def open(
        cls,
        record: JobRecord,
        shard: Shard,
        fence: int,
        attempt: Path,
        about: dict[str, str],
        seals: SealFolder | None = None,
        num_withheld: int = 0,
        merge: Merge | None = None,
        clocks: StageClocks | None = None,
    ) -> Stages:
        """Raises whatever is wrong with the job or its input; `about` is what `Engine.describe` returned."""
        spec = record.spec
        checkpoint = Checkpoint.resolve(spec.model.model_copy(update={"id": record.model_path}))
        clocks = clocks or StageClocks()
        tokenizer = Tokenizer.load(checkpoint.tokenizer_folder, clocks.tokenize)
        columns = input_schema(record)
        kept = kept_columns(spec, columns.names)
        preparation = choose_preparation(record, checkpoint, tokenizer)
        answers = choose_answers(spec, checkpoint, tokenizer, about)
        # the metadata is pandas', of the index; a column that is not kept is none
        schema = pa.schema([*map(columns.field, kept), ROW, *answers.fields, ERROR], metadata=columns.metadata)
        made_by = {**provenance(record, shard, fence, checkpoint, about), **answers.facts}
        # a merge reads rows here and there, and seals are asked for runs of them
        seals = seals if settings().seal_seconds and merge is None else None
        identity = seal_identity(record, shard, made_by, about)
        num_samples = None if spec.reads_requests else preparation.num_samples
        repairs = Repairs()
        rows = clocks.read.timed(read_shard(record, shard, columns, repairs))
        return cls(
            first_row=shard.first_row,
            batches=cut_batches(merge.rows_of(rows) if merge else rows, preparation.rows_at_once),
            preparation=preparation,
            answers=answers,
            kept=kept,
            schema=schema,
            writer=merge.writer(attempt, schema, made_by) if merge else PartWriter(attempt, schema, made_by),
            numbers=merge.numbers if merge else range(shard.first_row, shard.first_row + shard.num_rows),
            sealer=Sealer(seals, identity, settings().seal_seconds),
            reused=ReusedRows(seals, identity, num_samples=num_samples, num_withheld=num_withheld),
            repairs=repairs,
            clocks=clocks,
        )

    def prepared(self, batches: Iterable[InputRows]) -> Iterator[Prepared]:
        """Each batch of rows with its prepared tokens, or answers where they are sealed."""
        first = self.first_row
        for rows in batches:
            with self.clocks.prepare:
                prepared = self._prepared(rows, self.reused.take(first, rows.num_rows))
            first += rows.num_rows
            yield rows.batch, prepared

    def _prepared(self, rows: InputRows, sealed: dict[int, Outcome]) -> list[PreparedRow]:
        if not sealed:
            return list(self._tokens(rows))
        if self.answers.needs_tokens:
            return [_with_tokens(sealed.get(i), tokens) for i, tokens in enumerate(self._tokens(rows))]
        left = [i for i in range(rows.num_rows) if i not in sealed]
        tokens = iter(self._tokens(rows.take(left)) if left else ())
        return [sealed[i] if i in sealed else next(tokens) for i in range(rows.num_rows)]

    def _tokens(self, rows: InputRows) -> list[Tokens | RowError]:
        tokens = self.preparation.tokens(rows.batch)
        for row, fault in rows.faults.items():
            # what was wrong in the file explains what is wrong with the cells
            tokens[row] = RowError(reason=fault)
        return self.preparation.complete(tokens)


def _with_tokens(sealed: Outcome | None, tokens: Tokens | RowError) -> PreparedRow:
    """The sealed answer with the tokens that it points into."""
    if sealed is None or isinstance(tokens, RowError):
        return tokens
    return replace(sealed, tokens=tokens)
