"""One batch of input rows in flight: the columns that the output keeps, and the outcome of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.tokenization import Tokens
from parquetry.workers.request import Completion, Result


@dataclass
class Outcome:
    """One row in flight: the size of its prompt, one result for each sample, or an error."""

    num_prompt_tokens: int | None = None
    results: list[Result | None] = field(default_factory=list)
    error: str | None = None
    #: for labels of tokens, and where rows say how they are answered
    tokens: Tokens | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every sample has its result; also true of a row that failed before it reached the engine."""
        return None not in self.results

    def take(self, sample: int, result: Result) -> None:
        """Store one sample's result; the error of any sample is the row's."""
        self.results[sample] = result
        if isinstance(result, Completion) and result.num_prompt_tokens is not None:
            self.num_prompt_tokens = result.num_prompt_tokens
        self.error = self.error or result.error

    @property
    def completions(self) -> list[Completion]:
        """The results of a row of task generate that have arrived, in the order of the samples."""
        return [result for result in self.results if isinstance(result, Completion)]

    @property
    def num_output_tokens(self) -> int:
        return sum(len(result.output_ids) for result in self.completions)

    @property
    def num_bytes(self) -> int:
        """Bytes of the results."""
        return sum(_num_bytes(result) for result in self.results if result is not None)


def num_output_tokens(result: Result) -> int:
    """Tokens of one sample's output."""
    return len(result.output_ids) if isinstance(result, Completion) else 0


def _num_bytes(result: Result) -> int:
    if isinstance(result, Completion):
        return result.output_ids.nbytes + (0 if result.logprobs is None else result.logprobs.nbytes)
    return result.values.nbytes


#: what is known of a row before the engine sees it: its tokens, what is wrong with it, or an answer that was sealed
PreparedRow = Tokens | RowError | Outcome


class PendingRows:
    """Some rows of the job's input, from reading to writing; `numbers` are their positions in it."""

    def __init__(
        self,
        kept: pa.RecordBatch,
        numbers: Sequence[int],
        prepared: Sequence[PreparedRow],
        samples: Callable[[Tokens], int],
    ) -> None:
        """`samples` tells how many answers a row is to have."""
        self.kept = kept
        self.numbers = numbers
        self.outcomes = [_outcome(tokens, samples) for tokens in prepared]
        #: of all prompts
        self.num_tokens = sum(outcome.num_prompt_tokens or 0 for outcome in self.outcomes)
        #: of the kept columns, of all images and of answers that were there
        self.num_bytes = kept.nbytes + sum(row.num_bytes for row in prepared if not isinstance(row, RowError))
        self._num_missing = sum(outcome.results.count(None) for outcome in self.outcomes)

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

    def reused(self) -> Iterator[Outcome]:
        """Before any result was taken: rows that have their answer already."""
        return (outcome for outcome in self.outcomes if outcome.results and outcome.is_complete)

    def refused(self) -> Iterator[tuple[int, Outcome]]:
        """Rows that failed before they reached the engine, each with its position in the job's input."""
        return ((self.numbers[i], o) for i, o in enumerate(self.outcomes) if not o.results)


def _outcome(tokens: PreparedRow, samples: Callable[[Tokens], int]) -> Outcome:
    if isinstance(tokens, Outcome):
        return tokens
    if isinstance(tokens, RowError):
        return Outcome(error=str(tokens))
    # the tokens themselves are kept only where the answer points into the text, or the row says how it is written
    kept = tokens if tokens.spans is not None or tokens.asked is not None else None
    return Outcome(num_prompt_tokens=len(tokens.ids), results=[None] * samples(tokens), tokens=kept)
