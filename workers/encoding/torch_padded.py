"""Classification, pair scores and embeddings through torch, in length-sorted padded batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from parquetry.workers.checks.sharing import Sharing
from parquetry.workers.encoding.batching.device_batch import copy_to_device
from parquetry.workers.encoding.batching.queue import PADDED
from parquetry.workers.encoding.batching.readback import Readback
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.queued import BatchTooLargeError, QueuedEncoder
from parquetry.workers.padded.padding import Side, pad_rows
from parquetry.workers.request import EncodeRequest

#: model output and attention mask (num_rows, length) to float32 values, (num_rows, num_values) or of every token
#: (num_rows, length, num_values)
Head = Callable[[ModelOutput, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class _Padded:
    """A batch's values on their way, and the lengths of its rows."""

    values: Readback
    lens: list[int]


class TorchEncoder(QueuedEncoder):
    """Engine over any transformers model; batches are sorted by length and padded on the right.

    The few models whose rows answer there as alone only when they are padded on the left have `side` changed.
    """

    gives_model_back = True
    side: Side = "right"

    def __init__(
        self,
        model: PreTrainedModel,
        head: Head,
        *,
        pad_id: int | None,
        max_tokens: int,
        token_budget: int,
        about: dict[str, str] | None = None,
    ) -> None:
        """`pad_id` None, for models that name none, fills each batch with an id that ends none of its rows."""
        num_types = int(getattr(model.config, "type_vocab_size", 0) or 0)
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        limits = RowLimits(
            vocab_size=model.get_input_embeddings().weight.shape[0],
            max_tokens=max_tokens,
            type_vocab_size=num_types if takes_types else 0,
        )
        super().__init__(limits, token_budget, PADDED)
        self.depth = 2 if model.device.type == "cuda" else 1
        self._model, self._head = model, head
        self._pad_id = pad_id
        self._about = about or {}

    def launch(self, requests: list[EncodeRequest]) -> _Padded:
        try:
            with torch.inference_mode():
                values = Readback(self._head(*self._outputs(requests)))
        except torch.OutOfMemoryError as error:
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()
            raise BatchTooLargeError from error
        lens = [len(request.token_ids) for request in requests]
        self.count_padding(len(lens) * max(lens) - sum(lens))
        return _Padded(values, lens)

    def collect(self, handle: _Padded) -> np.ndarray | list[np.ndarray]:
        values = handle.values.wait()
        if values.ndim == 2:
            return values
        # values of tokens, padding included
        return [row[:length].reshape(-1) for row, length in zip(values, handle.lens, strict=True)]

    def share(self, sharing: Sharing) -> None:
        """From now on let these rows share a batch and no others; provenance says why."""
        self._queue.share(sharing.rows)
        self.note(sharing.facts)

    def note(self, facts: dict[str, str]) -> None:
        """Say this too in `describe`, and so in provenance."""
        self._about = {**self._about, **facts}

    def trial(self, rows: Sequence[np.ndarray]) -> list[Tensor]:
        """What the model gives for one batch of `rows` (each (num_tokens,) int32), before anything is made of it."""
        output, _ = self._outputs([EncodeRequest(id=number, token_ids=row) for number, row in enumerate(rows)])
        values: Tensor = output.logits if "logits" in output else output.last_hidden_state
        # tokens have a vector each, texts one
        return [value[: len(row)] if value.ndim == 2 else value for value, row in zip(values, rows, strict=True)]

    def _outputs(self, batch: list[EncodeRequest]) -> tuple[ModelOutput, Tensor]:
        """What the model gives, padding moved to the right, and the attention mask (num_rows, length) of that."""
        inputs = self._inputs(batch)
        output, mask = self._model(**inputs), inputs["attention_mask"]
        if self.side == "right":
            return output, mask
        for name in [name for name in ("last_hidden_state", "logits") if name in output]:
            output[name] = moved_right(output[name], mask)
        return output, mask.flip(1)

    def _inputs(self, batch: list[EncodeRequest]) -> dict[str, Tensor]:
        """input_ids, attention_mask and where the model tells texts apart token_type_ids: (num_rows, length) int64."""
        ids, mask = pad_rows([request.token_ids for request in batch], self._fill_id(batch), self.side)
        arrays = {"input_ids": ids, "attention_mask": mask}
        if self.limits.has_types:
            types = [request.token_type_ids for request in batch]
            given = [np.zeros_like(r.token_ids) if t is None else t for r, t in zip(batch, types, strict=True)]
            arrays["token_type_ids"], _ = pad_rows(given, 0, self.side)
        return {name: copy_to_device(array, self._model.device) for name, array in arrays.items()}

    def _fill_id(self, batch: list[EncodeRequest]) -> int:
        if self._pad_id is not None:
            return self._pad_id
        # a decoder's classifier reads the last token that is not the padding id, so none of them may be
        ends = {int(request.token_ids[-1]) for request in batch}
        self._model.config.pad_token_id = next(number for number in range(len(ends) + 1) if number not in ends)
        return self._model.config.pad_token_id

    def describe(self) -> dict[str, str]:
        return {"backend": "transformers", **self._about}


def moved_right(values: Tensor, mask: Tensor) -> Tensor:
    """values (num_rows, length, size) of rows padded on the left, as if they had been padded on the right.

    What has one vector a row stays as it is.
    """
    if values.ndim != 3:
        return values
    length = mask.shape[1]
    places = torch.arange(length, device=mask.device) + (length - mask.sum(1, keepdim=True))
    return values.gather(1, (places % length)[..., None].expand_as(values))
