"""Classification, pair scores and embeddings through torch, in length-sorted padded batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from parquetry.workers.encoding.device_batch import copy_to_device
from parquetry.workers.encoding.queue import PADDED
from parquetry.workers.encoding.queued import BatchTooLargeError, QueuedEncoder
from parquetry.workers.encoding.readback import Readback
from parquetry.workers.encoding.rows import RowLimits
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
    """Engine over any transformers model; batches are sorted by length and padded on the right."""

    gives_model_back = True

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
                inputs = self._inputs(requests)
                values = Readback(self._head(self._model(**inputs), inputs["attention_mask"]))
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

    def _inputs(self, batch: list[EncodeRequest]) -> dict[str, Tensor]:
        """input_ids, attention_mask and where the model tells texts apart token_type_ids: (num_rows, length) int64."""
        shape = (len(batch), max(len(request.token_ids) for request in batch))
        arrays = {"input_ids": np.full(shape, self._fill_id(batch), np.int64), "attention_mask": np.zeros(shape, int)}
        if self.limits.has_types:
            arrays["token_type_ids"] = np.zeros(shape, np.int64)
        for index, request in enumerate(batch):
            length = len(request.token_ids)
            arrays["input_ids"][index, :length], arrays["attention_mask"][index, :length] = request.token_ids, 1
            if self.limits.has_types and request.token_type_ids is not None:
                arrays["token_type_ids"][index, :length] = request.token_type_ids
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
