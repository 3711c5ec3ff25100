"""Compiled grammars over one model's vocabulary, and where each row stands in its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tokenizers

from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.grammar.vocabulary import read_vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher


class RowMatcher:
    """One row's way through a grammar. It takes tokens as they are chosen, none but those its masks allow."""

    def __init__(self, matcher: LLMatcher, eos_ids: Collection[int]) -> None:
        self.matcher = matcher
        self._eos_ids = eos_ids
        self._is_over = False

    def push(self, token: int) -> bool:
        """Take one token; True when the text is complete with it, so that nothing may follow."""
        # what comes after the end is padding, or a token that was on its way already
        if self._is_over or token in self._eos_ids:
            self._is_over = True
            return False
        self.matcher.consume_token(token)
        self._is_over = self.matcher.is_stopped()
        return self._is_over

    @property
    def error(self) -> str | None:
        """Why the row cannot go on: the library gave up on its grammar. None while all is well."""
        if not self.matcher.is_error():
            return None
        return f"the grammar could not be followed: {self.matcher.get_error().strip().partition(chr(10))[0][:200]}"


class GrammarCompiler:
    """Compiles each grammar once for one tokenizer and hands out matchers of it."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_ids: Collection[int]) -> None:
        """`vocab_size` is that of the logits. Compiling the tokenizer takes about a second for 150,000 tokens.

        Raises GrammarError for a tokenizer that the library does not take.
        """
        from llguidance import LLExecutor

        # a tokenizer may know tokens the model was never made for; masks are then wider than the logits
        self.vocab_size = max(vocab_size, tokenizer.get_vocab_size())
        self._eos_ids = frozenset(eos_ids)
        self._tokenizer = read_vocabulary(tokenizer, self.vocab_size, eos_ids)
        self._executor = LLExecutor()
        self._compiled: dict[str, LLMatcher] = {}

    @property
    def mask_width(self) -> int:
        """int32 words of one row's mask."""
        return -(-self.vocab_size // 32)

    @property
    def num_compiled(self) -> int:
        """Grammars compiled so far."""
        return len(self._compiled)

    def start(self, text: str) -> RowMatcher:
        """A matcher at the start of the grammar `text` (see `Grammar.text`). Raises GrammarError."""
        if text not in self._compiled:
            self._compiled[text] = self._compile(Grammar.parse(text))
        return RowMatcher(self._compiled[text].deep_copy(), self._eos_ids)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar.llguidance, log_level=0)
        if matcher.is_error():
            raise grammar.error(matcher.get_error())
        return matcher

    def masks(self, rows: Sequence[RowMatcher | None]) -> np.ndarray:
        """(num_rows, mask_width) int32, one bit a token, low bits first: what each row may write next.

        Rows without a matcher may write anything. Matchers are asked in parallel, outside the interpreter's lock.
        """
        from llguidance.numpy import fill_next_token_bitmask_par

        masks = np.full((len(rows), self.mask_width), -1, dtype=np.int32)
        asked = [(row.matcher, index) for index, row in enumerate(rows) if row is not None]
        if asked:
            fill_next_token_bitmask_par(self._executor, asked, masks)
        return masks
