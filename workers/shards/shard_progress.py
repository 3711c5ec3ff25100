"""What a shard has done so far."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from parquetry.workers.request import Result, UnderWay
from parquetry.workers.shards.pending_rows import Outcome, num_output_tokens
from parquetry.workers.shards.row_output import expected_output

#: kinds of errors that are told of one shard, and that are told apart while it runs
MAX_KINDS = 20
MAX_HELD_KINDS = 1000
MAX_KIND_CHARACTERS = 160
OTHER_KINDS = "other reasons"
# what stands behind a hyphen is part of a name, as in UTF-8
_NUMBER = re.compile(r"(?<![A-Za-z]-)\d[\d,._]*")


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Rows that have their answer, and the tokens they took: what a part's footer tells."""

    rows: int = 0
    error_rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardTimes:
    """Where the time of a shard went, in milliseconds; the stages run beside each other."""

    #: from its first row read to its last row written
    shard_ms: int = 0
    #: of that, rows were read, rendered and tokenized
    prepare_ms: int = 0
    #: of that, parts were encoded and written
    write_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class ShardProgress(RowCounts):
    """The counts as they are now, and how far the engine is with rows that are not finished."""

    #: of finished rows and of those under way; of a row with several samples the prompt counts once
    computed_prompt_tokens: int = 0
    computed_output_tokens: int = 0
    #: output tokens that a row is likely to have, 0 while nothing tells
    row_output: float = 0.0
    #: of the finished rows, those that an earlier attempt has computed, and their tokens
    reused_rows: int = 0
    reused_prompt_tokens: int = 0
    reused_output_tokens: int = 0


class Tally:
    """Counts the rows of a shard as they get their answers.

    A row has `num_samples` outputs at most, each of `max_output` tokens at most.
    """

    def __init__(self, num_samples: int = 1, max_output: int = 0) -> None:
        self._num_samples, self._max_output = num_samples, max_output
        #: requests by the tokens of their output
        self._lengths: Counter[int] = Counter()
        self._rows = self._error_rows = self._prompt_tokens = self._output_tokens = 0
        self._kinds: Counter[str] = Counter()
        #: of answered samples whose row has others to come
        self._partial_prompt = 0.0
        self._partial_output = 0
        #: what of the counts is of rows that an earlier attempt has answered
        self.reused = {"reused_rows": 0, "reused_prompt_tokens": 0, "reused_output_tokens": 0}

    def reuse(self, outcome: Outcome) -> None:
        """Count one more row, which an earlier attempt has answered."""
        self._lengths.update(num_output_tokens(result) for result in outcome.results if result is not None)
        self.reused["reused_rows"] += 1
        self.reused["reused_prompt_tokens"] += outcome.num_prompt_tokens or 0
        self.reused["reused_output_tokens"] += outcome.num_output_tokens
        self.add(outcome)

    def answer(self, outcome: Outcome, result: Result) -> None:
        """Note that a row has one more of its samples."""
        output = num_output_tokens(result)
        if result.error is None:
            self._lengths[output] += 1
        num_samples = len(outcome.results)
        if num_samples == 1:
            return
        share = (outcome.num_prompt_tokens or 0) / num_samples
        if outcome.is_complete:
            # the whole row is about to be added
            self._partial_prompt -= share * (num_samples - 1)
            self._partial_output -= outcome.num_output_tokens - output
        else:
            self._partial_prompt += share
            self._partial_output += output

    def add(self, outcome: Outcome) -> None:
        """Count one more row."""
        self._rows += 1
        self._prompt_tokens += outcome.num_prompt_tokens or 0
        self._output_tokens += outcome.num_output_tokens
        if outcome.error is not None:
            self._error_rows += 1
            kind = error_kind(outcome.error)
            self._kinds[kind if kind in self._kinds or len(self._kinds) < MAX_HELD_KINDS else OTHER_KINDS] += 1

    @property
    def counts(self) -> RowCounts:
        """The counts as they are now."""
        return RowCounts(**self._counts())

    def _counts(self) -> dict[str, int]:
        tokens = {"prompt_tokens": self._prompt_tokens, "output_tokens": self._output_tokens}
        return {"rows": self._rows, "error_rows": self._error_rows, **tokens}

    @property
    def error_kinds(self) -> dict[str, int]:
        """Error rows by what is wrong with them, numbers aside; the same however they finished."""
        ordered = sorted(self._kinds.items(), key=lambda pair: (-pair[1], pair[0]))
        found = dict(ordered[:MAX_KINDS])
        rest = sum(count for _, count in ordered[MAX_KINDS:])
        return {**found, OTHER_KINDS: found.get(OTHER_KINDS, 0) + rest} if rest else found

    def progress(self, under_way: Collection[UnderWay] = ()) -> ShardProgress:
        """The counts, with what is under way."""
        prompt = self._partial_prompt + sum(request.num_prompt for request in under_way) / self._num_samples
        output = self._partial_output + sum(request.num_output for request in under_way)
        return ShardProgress(
            **self._counts(),
            computed_prompt_tokens=self._prompt_tokens + round(prompt),
            computed_output_tokens=self._output_tokens + output,
            row_output=self._num_samples * (self._expected(under_way) or 0.0),
            **self.reused,
        )

    def _expected(self, under_way: Collection[UnderWay]) -> float | None:
        return expected_output(self._lengths, (request.num_output for request in under_way), self._max_output)


def error_kind(error: str) -> str:
    """An error without the numbers in which rows differ, on one line and cut to MAX_KIND_CHARACTERS."""
    line = " ".join(error.split())
    return _NUMBER.sub("N", line[: 4 * MAX_KIND_CHARACTERS])[:MAX_KIND_CHARACTERS]
