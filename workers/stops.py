"""Stop strings: found while tokens arrive, and cut from the text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class StopMatcher:
    """Detokenizes one sequence as it grows and looks for its stop strings in the newest text only."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(word for word in stop if word)
        self._keep = max(map(len, self._stop), default=1) - 1
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._tail = ""

    def push(self, token: int) -> bool:
        """Take one token; True when a stop string is complete."""
        text = self._stream.step(self._tokenizer, token)
        if not text:
            return False
        seen = self._tail + text
        self._tail = seen[-self._keep :] if self._keep else ""
        return any(word in seen for word in self._stop)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first stop string: the token that completes one may hold text before and behind it."""
    ends = [at for word in stop if word and (at := text.find(word)) >= 0]
    return text[: min(ends)] if ends else text
