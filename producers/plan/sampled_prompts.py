"""How long a job's prompts are: some rows from all over the input, prepared as a worker would."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from parquetry.schemas.errors import RowError, TemplateError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import Shard, ShardPlan
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.preparation import require_good
from parquetry.workers.preparation.preparation_choice import choose_preparation
from parquetry.workers.preparation.rendering.renderer import OVERRUN
from parquetry.workers.preparation.template import Template, TemplateRowError
from parquetry.workers.preparation.tokenization import Tokenizer, Tokens
from parquetry.workers.shards.reader import input_schema, read_shard
from parquetry.workers.shards.shard_progress import error_kind

#: shards that rows are taken from, at most
_SAMPLED_SHARDS = 8
#: rows that a template is tried on before a job is submitted
_RENDERED_ROWS = 16
#: of these that take all the time they may, after which no further one is tried
_MOST_OVERRUNS = 3


class ErrorExample(NamedTuple):
    """Sampled rows that would become error rows for one reason, numbers aside."""

    rows: int
    #: one of them, and what would be said of it
    row: int
    error: str


@dataclass
class SampledPrompts:
    """The prompts of some rows of the input."""

    #: tokens of every sampled row that a model could take
    lengths: list[int] = field(default_factory=list)
    #: rows that would become error rows, by the kind of their error
    errors: dict[str, ErrorExample] = field(default_factory=dict)
    #: prompts that are the same as one before them
    num_duplicates: int = 0
    #: tokens that all of them begin with
    prefix: np.ndarray | None = None
    _seen: set[bytes] = field(default_factory=set)

    def add(self, ids: np.ndarray) -> None:
        """Count a prompt, given as its token ids."""
        digest = hashlib.sha256(ids.tobytes()).digest()
        self.num_duplicates += digest in self._seen
        self._seen.add(digest)
        self.lengths.append(len(ids))
        self.prefix = ids if self.prefix is None else self.prefix[: _num_shared(self.prefix, ids)]

    def add_error(self, row: int, error: str) -> None:
        """Count a row of the input that would become an error row."""
        kind = error_kind(error)
        known = self.errors.get(kind, ErrorExample(0, row, error))
        self.errors[kind] = known._replace(rows=known.rows + 1)

    @property
    def num_errors(self) -> int:
        return sum(example.rows for example in self.errors.values())

    @property
    def num_rows(self) -> int:
        return len(self.lengths) + self.num_errors

    @property
    def mean(self) -> float:
        """Tokens of a row on average, 0 when no row could be prepared."""
        return sum(self.lengths) / max(len(self.lengths), 1)

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def num_shared(self) -> int:
        """Tokens at the start of every prompt that are the same; of a single prompt nothing is shared."""
        return len(self.prefix) if self.prefix is not None and len(self.lengths) > 1 else 0


def _num_shared(first: np.ndarray, second: np.ndarray) -> int:
    """Tokens that both begin with."""
    shortest = min(len(first), len(second))
    differ = np.flatnonzero(first[:shortest] != second[:shortest])
    return int(differ[0]) if len(differ) else shortest


def read_sampled_prompts(record: JobRecord, checkpoint: Checkpoint, num_rows: int) -> SampledPrompts:
    """About `num_rows` rows of the job, read and tokenized."""
    preparation = choose_preparation(record, checkpoint, Tokenizer.load(checkpoint.tokenizer_folder))
    schema = input_schema(record)
    sampled = SampledPrompts()
    for shard in _spread(record.shard_plan, num_rows):
        first_row = shard.first_row
        for rows in read_shard(record, shard, schema):
            for index, tokens in enumerate(preparation.tokens(rows.batch)):
                fault = rows.faults.get(index, tokens)
                if isinstance(fault, Tokens):
                    sampled.add(np.asarray(fault.ids))
                else:
                    sampled.add_error(first_row + index, str(fault))
            first_row += rows.batch.num_rows
    return sampled


def require_rendering(record: JobRecord) -> None:
    """Raise TemplateError where the prompt template itself fails for every one of the first rows.

    Rows that fail by what is in them, as those with a null cell do, say nothing of the template.
    """
    prompt, plan = record.spec.prompt, record.shard_plan
    if record.spec.task != "generate" or prompt.template is None:
        return
    template = Template.parse(prompt.template)
    first = ShardPlan(files=plan.files, bounds=(0, min(plan.num_rows, _RENDERED_ROWS))).shard(0)
    reasons = []
    for row in (row for rows in read_shard(record, first) for row in template.rows(rows.batch)):
        reason = _failure(template, row)
        if reason is None:
            return
        reasons.append(reason)
        if sum(OVERRUN in reason for reason in reasons) == _MOST_OVERRUNS:
            break
    raise TemplateError(reason=f"it fails for each of the first {len(reasons)} rows: {reasons[0]}")


def _failure(template: Template, row: dict[str, Any]) -> str | None:
    """Why the template fails for a row, None where it does not or where the row is at fault."""
    try:
        require_good(row)
        template.render(row)
    except TemplateRowError as error:
        return str(error)
    except RowError:
        return None
    return None


def _spread(shard_plan: ShardPlan, num_rows: int) -> Iterator[Shard]:
    """The first few rows of evenly spaced shards, since shards tend to begin with a row group; or all rows."""
    takes_all = num_rows >= shard_plan.num_rows
    count = shard_plan.num_shards if takes_all else min(_SAMPLED_SHARDS, shard_plan.num_shards)
    each = shard_plan.num_rows if takes_all else max(1, num_rows // count)
    for number in range(count):
        index = number * shard_plan.num_shards // count
        start, stop = shard_plan.bounds[index], shard_plan.bounds[index + 1]
        bounds = sorted({0, start, min(start + each, stop)})
        yield ShardPlan(files=shard_plan.files, bounds=tuple(bounds)).shard(len(bounds) - 2)
