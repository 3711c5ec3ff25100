"""What padded generate gives for trial rows: the logits of the first tokens behind each prompt, whichever they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, LogitsProcessorList

#: tokens that are put behind a trial prompt, and whose logits are looked at
NUM_OUTPUTS = 2


class GivenTokens(LogitsProcessor):
    """Notes the logits and goes on with given tokens, so that rows are compared on the same ones."""

    def __init__(self, tokens: Tensor) -> None:
        """tokens (num_rows, num_outputs) int64."""
        self._tokens = tokens
        self._logits: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores (num_rows, vocab_size)."""
        tokens = self._tokens[:, len(self._logits)]
        self._logits.append(scores.float())
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)

    @property
    def logits(self) -> Tensor:
        """(num_rows, num_outputs, vocab_size) float32."""
        return torch.stack(self._logits, 1)


@torch.inference_mode()
def trial_logits(model: GenerationMixin, inputs: dict[str, Tensor], outputs: Tensor) -> list[Tensor]:
    """For each row of `inputs`, arguments of generate, the logits (num_outputs, vocab_size) along `outputs`."""
    given = GivenTokens(outputs)
    model.generate(**inputs, max_new_tokens=outputs.shape[1], logits_processor=LogitsProcessorList([given]))
    return list(given.logits)


def trial_outputs(rows: Sequence[np.ndarray], eos_ids: Collection[int], num_outputs: int = NUM_OUTPUTS) -> np.ndarray:
    """(num_rows, num_outputs) int64: each row goes on as it began, with no token that would end it."""
    return np.stack([np.resize(row[~np.isin(row, sorted(eos_ids))], num_outputs).astype(np.int64) for row in rows])
