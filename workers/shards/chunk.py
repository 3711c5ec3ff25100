"""One batch of input rows on its way through a shard: what is kept of it, and what became of each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.tokenization import Tokens
from parquetry.workers.request import Result
from parquetry.workers.shards.answers import Outcome


class Chunk:
    """Rows [first_row, first_row + num_rows) of the job's input, from reading to writing."""

    def __init__(
        self, kept: pa.RecordBatch, first_row: int, prepared: Sequence[Tokens | RowError], num_samples: int
    ) -> None:
        self.kept = kept
        self.first_row = first_row
        self.outcomes = [_outcome(tokens, num_samples) for tokens in prepared]
        #: of all prompts
        self.num_tokens = sum(outcome.num_prompt_tokens or 0 for outcome in self.outcomes)
        #: of the kept columns and of all images
        self.num_bytes = kept.nbytes + sum(tokens.num_bytes for tokens in prepared if isinstance(tokens, Tokens))
        self._num_missing = sum(len(outcome.results) for outcome in self.outcomes)

    @property
    def num_rows(self) -> int:
        return len(self.outcomes)

    @property
    def is_complete(self) -> bool:
        """Whether every row has all its results, or an error instead."""
        return not self._num_missing

    def take(self, index: int, sample: int, result: Result) -> Outcome:
        """Store one result and return its row."""
        self._num_missing -= 1
        outcome = self.outcomes[index]
        outcome.take(sample, result)
        return outcome

    def refused(self) -> Iterator[tuple[int, Outcome]]:
        """Rows, by their position in the job's input, that no engine will see."""
        return ((self.first_row + i, o) for i, o in enumerate(self.outcomes) if not o.results)


def _outcome(tokens: Tokens | RowError, num_samples: int) -> Outcome:
    if isinstance(tokens, RowError):
        return Outcome(error=str(tokens))
    # the tokens themselves are kept only where the answer points into the text
    kept = tokens if tokens.spans is not None else None
    return Outcome(num_prompt_tokens=len(tokens.ids), results=[None] * num_samples, tokens=kept)
