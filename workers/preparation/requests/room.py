"""The context window shared between a request's prompt and its output."""

from __future__ import annotations

from parquetry.schemas.errors import RowError
from parquetry.workers.checkpoint.checkpoint import Checkpoint


class Room:
    """What is left for one where the other is known."""

    def __init__(self, checkpoint: Checkpoint, usual: int) -> None:
        """`usual` is the most tokens of an output whose request leaves that open."""
        self._window, self._usual = checkpoint.context_window, usual
        # an encoder-decoder has positions for its output alone, and begins behind up to two tokens that are given
        self._output = checkpoint.output_context_window - 2 if checkpoint.is_encoder_decoder else None

    def beside(self, longest: int | None) -> tuple[int, str]:
        """The longest prompt beside an output of `longest` tokens, and how the sentence on a longer one ends."""
        if self._output is not None:
            return (self._window if (longest or 1) <= self._output else 0), " into the model's encoder"
        if longest is None:
            return self._window - 1, f" into the model's {self._window}"
        return self._window - longest, f" beside max_tokens {longest} in the model's {self._window}"

    def longest(self, num_prompt: int, longest: int | None) -> int:
        """The most tokens of the output behind a prompt. Raises RowError where there is no room for those asked for."""
        room = self._window - num_prompt if self._output is None else self._output
        if longest is None and room >= 1:
            return min(self._usual, room)
        if longest is None or longest > room:
            limit, why = self.beside(longest)
            raise RowError(reason=f"{num_prompt} tokens, but at most {limit} fit{why}; shorten it")
        return longest
