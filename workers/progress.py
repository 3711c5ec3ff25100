"""What a shard has done so far, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass

from workers.answers import Outcome


@dataclass(frozen=True, kw_only=True)
class ShardProgress:
    """Rows that have their answer, and the tokens they took."""

    rows: int = 0
    error_rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def plus(self, outcome: Outcome) -> ShardProgress:
        """With one more row."""
        return ShardProgress(
            rows=self.rows + 1,
            error_rows=self.error_rows + (outcome.error is not None),
            prompt_tokens=self.prompt_tokens + (outcome.num_prompt_tokens or 0),
            output_tokens=self.output_tokens + outcome.num_output_tokens,
        )


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
