"""Grammars of a padded batch, for transformers' generate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.grammar.bitmask import apply_bitmask
from workers.grammar.matcher import GrammarCompiler, RowMatcher


class BatchGrammars:
    """The matchers of the rows of one batch, None for rows that are free. Tokens reach them through `push`."""

    def __init__(self, compiler: GrammarCompiler, texts: Sequence[str | None]) -> None:
        self._compiler = compiler
        self.rows: list[RowMatcher | None] = [None if text is None else compiler.start(text) for text in texts]
        #: rows that have ended; transformers fills them up with padding, which no grammar allows
        self._ended = [False] * len(texts)

    def constrain(self, scores: Tensor) -> Tensor:
        """scores (num_rows, vocab_size) with -inf at every token a row may not write next."""
        active = [None if ended else row for row, ended in zip(self.rows, self._ended, strict=True)]
        masks = torch.from_numpy(self._compiler.masks(active)).to(scores.device)
        return apply_bitmask(scores, masks)

    def push(self, index: int, token: int) -> bool:
        """Tell the row's matcher its newest token; True when its text is complete with it."""
        row = self.rows[index]
        return row is not None and row.push(token)

    def end(self, index: int) -> None:
        """The row takes no more tokens."""
        self._ended[index] = True
