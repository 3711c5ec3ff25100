"""Where a model counts the tokens of a row from, and how far: seen in its own lookups, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from parquetry.schemas.errors import UnusableModelError

_NUM_TOKENS = 3


@dataclass(frozen=True)
class Positions:
    """The first position of a row, and the most tokens a row may have; None where no table sets a bound."""

    start: int = 0
    max_tokens: int | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Positions:
        """What a row of three tokens looks up. Raises UnusableModelError when the model cannot compute one."""
        body = model.base_model
        lookups = _Lookups()
        try:
            with torch.inference_mode(), lookups:
                body(input_ids=_row(model))
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError) as error:
            reason = f"a row of {_NUM_TOKENS} tokens fails in it ({str(error).strip().partition(chr(10))[0][:200]})"
            raise UnusableModelError(model=model.name_or_path, reason=reason) from error
        if lookups.found:
            return min(lookups.found, key=lambda found: found.max_tokens or 0)
        # positions that are computed, as rotary ones are, have no table; what the config says is then all there is
        bound = getattr(model.config, "max_position_embeddings", None)
        return cls(max_tokens=int(bound) if bound and bound > 0 else None)


def _row(model: PreTrainedModel) -> Tensor:
    """(1, 3) int64, descending, so that words are not taken for positions, and without the padding id."""
    pad_id = model.config.get_text_config().pad_token_id
    ids = [number for number in range(_NUM_TOKENS + 1) if number != pad_id][:_NUM_TOKENS]
    return torch.tensor([ids[::-1]], device=model.device)


class _Lookups(TorchFunctionMode):
    """Watches tables of vectors being read; `found` are those that are read in order, from some start."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Positions] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.embedding:
            self._note(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _note(self, indices: Tensor, table: Tensor) -> None:
        # some models pad the row to their sliding window first
        first = indices.reshape(-1)[:_NUM_TOKENS].tolist()
        if first == list(range(first[0], first[0] + _NUM_TOKENS)):
            self.found.append(Positions(first[0], table.shape[0] - first[0]))
