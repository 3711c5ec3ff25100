"""One request on its way through the engine."""

from __future__ import annotations

import numpy as np

from parquetry.workers.grammar.matcher import RowMatcher
from parquetry.workers.request import Completion, GenerationRequest
from parquetry.workers.stops import StopMatcher


class Sequence:
    """A request, the tokens known so far and the blocks it holds.

    `tokens` is what a prefill has to compute: the prompt, and after a preemption the outputs known by then. While
    the sequence holds a lane, its newest outputs live in the lane table.
    """

    __slots__ = ("adapter", "blocks", "grammar", "is_long", "keys", "lane", "matcher", "request", "tokens")

    def __init__(self, request: GenerationRequest, adapter: int = 0) -> None:
        """`adapter` is the number of the request's adapter in the model's bank."""
        self.request = request
        self.adapter = adapter
        self.tokens = np.asarray(request.prompt_ids, dtype=np.int32)
        self.lane = -1
        #: whether it has the rotary frequencies of long rows, with a model that has two sets
        self.is_long = False
        self.blocks: list[int] = []
        self.keys: list[bytes] | None = None
        self.matcher: StopMatcher | None = None
        self.grammar: RowMatcher | None = None

    def __getstate__(self) -> tuple:
        """What another rank needs of it: what looks at its tokens one by one stays where the scheduler is."""
        return self.request, self.adapter, self.tokens, self.lane, self.is_long, self.blocks

    def __setstate__(self, state: tuple) -> None:
        self.request, self.adapter, self.tokens, self.lane, self.is_long, self.blocks = state
        self.keys = self.matcher = self.grammar = None

    @property
    def kind(self) -> int:
        """What its keys and values depend on besides its tokens: the adapter, and whether it is a long row."""
        return 2 * self.adapter + self.is_long

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    def completed_by(self, token: int) -> bool:
        """Show its newest token to its stop strings and grammar; True when the output ends with it."""
        is_stop = self.matcher is not None and self.matcher.push(token)
        is_whole = self.grammar is not None and self.grammar.push(token)
        return is_stop or is_whole

    @property
    def problem(self) -> str | None:
        """Why the output is not to be used, or None."""
        return None if self.grammar is None else self.grammar.error

    def resume_from(self, outputs: np.ndarray) -> None:
        """Forget the lane and recompute from the prompt and the `outputs` (num_outputs,) known so far."""
        self.tokens = np.concatenate([np.asarray(self.request.prompt_ids, dtype=np.int32), outputs])
        self.keys = None
        self.lane = -1

    def fail(self, reason: str) -> Completion:
        """The error completion of this request; `reason` is one short sentence."""
        empty = np.empty(0, dtype=np.int32)
        return Completion(id=self.request.id, output_ids=empty, finish_reason="error", error=reason)
