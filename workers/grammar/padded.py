"""Grammars of a padded batch, for transformers' generate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from parquetry.workers.grammar.bitmask import apply_bitmask
from parquetry.workers.grammar.grammars import Grammars
from parquetry.workers.grammar.matcher import RowMatcher


class BatchGrammars:
    """The matchers of the rows of one batch, None for rows that are free. `constrain` and `push` take turns."""

    def __init__(self, grammars: Grammars, texts: Sequence[str | None]) -> None:
        self._grammars = grammars
        self._rows: list[RowMatcher | None] = [None if text is None else grammars.start(text) for text in texts]

    @property
    def is_empty(self) -> bool:
        """Whether every row is free."""
        return all(row is None for row in self._rows)

    def constrain(self, scores: Tensor) -> Tensor:
        """scores (num_rows, vocab_size) with -inf at every token a row may not write next."""
        return scores if self.is_empty else apply_bitmask(scores, self._grammars.masks(self._rows))

    def push(self, index: int, token: int) -> bool:
        """Tell a row's matcher its newest token; True when its text is complete with it."""
        row = self._rows[index]
        return row is not None and row.push(token)

    def problem(self, index: int) -> str | None:
        """Why the row's output is not to be used, or None."""
        row = self._rows[index]
        return None if row is None else row.error
