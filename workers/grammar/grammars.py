"""The grammars of one engine: compiled when the first request brings one, asked for masks at every step."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import tokenizers
import torch
from torch import Tensor

from parquetry.workers.grammar.matcher import GrammarCompiler, RowMatcher
from parquetry.workers.packages import require


class Grammars:
    """Compiles each grammar once and uploads masks. The tokenizer is compiled when the first grammar comes."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer | None, vocab_size: int, eos_ids: Collection[int], device: torch.device
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._device = device
        self._compiler: GrammarCompiler | None = None

    def start(self, text: str) -> RowMatcher:
        """A matcher for one row. Raises GrammarError, MissingPackageError, and ValueError without a tokenizer."""
        if self._tokenizer is None:
            raise ValueError("a grammar needs a tokenizer")
        require("llguidance", feature="a grammar")
        if self._compiler is None:
            self._compiler = GrammarCompiler(self._tokenizer, self._vocab_size, self._eos_ids)
        return self._compiler.start(text)

    def host_masks(self, rows: Sequence[RowMatcher | None]) -> Tensor:
        """(num_rows, mask_width) int32 on the host: what each row may write next."""
        assert self._compiler is not None
        return torch.from_numpy(self._compiler.masks(rows))

    def masks(self, rows: Sequence[RowMatcher | None]) -> Tensor:
        """As `host_masks`, on the device. The copy does not wait."""
        masks = self.host_masks(rows)
        if self._device.type != "cuda":
            return masks
        return masks.pin_memory().to(self._device, non_blocking=True)
