"""What a row must be for a model to take it; the rest become error rows before they reach the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.request import EncodeRequest
from parquetry.workers.vocabulary_check import unknown_ids

_LONG = 512


@dataclass(frozen=True, kw_only=True)
class RowLimits:
    """A model's limits. An id outside the embedding table would end the whole process on a GPU."""

    vocab_size: int
    #: most tokens a row may have, None for any number
    max_tokens: int | None = None
    #: segment ids of text pairs; 0 or 1 means the model does not tell texts apart
    type_vocab_size: int = 0

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> RowLimits:
        """The limits as the folder states them, for back ends that hold no torch model."""
        config = checkpoint.config
        return cls(
            vocab_size=int(config["vocab_size"]),
            max_tokens=checkpoint.context_window,
            type_vocab_size=int(config.get("type_vocab_size") or 0),
        )

    def long_rows(self, budget: int) -> list[EncodeRequest]:
        """Rows of as many tokens as most models take, together `budget`: they need the most memory of all batches."""
        length = min(self.max_tokens or _LONG, _LONG, budget)
        return [EncodeRequest(id=0, token_ids=np.ones(length, np.int32))] * (budget // length)

    def reason(self, request: EncodeRequest) -> str | None:
        """Why the model cannot take the row by its length, None when it can."""
        num_tokens = len(request.token_ids)
        if num_tokens == 0:
            return "the text has no tokens"
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            return f"the text has {num_tokens} tokens, but the model takes {self.max_tokens}"
        return None

    def unknown_ids(self, requests: list[EncodeRequest]) -> dict[int, str]:
        """Request id -> reason, for rows with ids outside the vocabulary; one pass over all rows when none has."""
        tokens = np.concatenate([r.token_ids for r in requests])
        if unknown_ids("a text", tokens, self.vocab_size) is None and not self._odd_types(requests):
            return {}
        reasons = {r.id: self._id_reason(r) for r in requests}
        return {request_id: reason for request_id, reason in reasons.items() if reason}

    @property
    def has_types(self) -> bool:
        """Whether segment ids make a difference."""
        return self.type_vocab_size > 1

    def _odd_types(self, requests: list[EncodeRequest]) -> bool:
        return self.has_types and any(self._type_reason(r) for r in requests if r.token_type_ids is not None)

    def _id_reason(self, request: EncodeRequest) -> str | None:
        problem = unknown_ids("the text", request.token_ids, self.vocab_size)
        return problem or (self._type_reason(request) if self.has_types else None)

    def _type_reason(self, request: EncodeRequest) -> str | None:
        types = request.token_type_ids
        if types is None:
            return None
        if len(types) != len(request.token_ids):
            return f"the text has {len(request.token_ids)} tokens but {len(types)} segment ids"
        if types.min() < 0 or types.max() >= self.type_vocab_size:
            return f"the text has segment ids up to {types.max()}, but the model knows {self.type_vocab_size}"
        return None
