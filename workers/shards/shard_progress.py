"""What a shard has done so far."""

from __future__ import annotations

from dataclasses import dataclass

from parquetry.workers.shards.pending_rows import Outcome


@dataclass(frozen=True, kw_only=True)
class ShardProgress:
    """Rows that have their answer, and the tokens they took; at the end the counts in the part's footer."""

    rows: int = 0
    error_rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Tally:
    """Counts the rows of a shard as they get their answers."""

    def __init__(self) -> None:
        self._rows = self._error_rows = self._prompt_tokens = self._output_tokens = 0

    def add(self, outcome: Outcome) -> None:
        """Count one more row."""
        self._rows += 1
        self._error_rows += outcome.error is not None
        self._prompt_tokens += outcome.num_prompt_tokens or 0
        self._output_tokens += outcome.num_output_tokens

    @property
    def progress(self) -> ShardProgress:
        """The counts as they are now."""
        return ShardProgress(
            rows=self._rows,
            error_rows=self._error_rows,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )
