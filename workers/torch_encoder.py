"""Classification, pair scores and embeddings through torch, in length-sorted padded batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from workers.batching import LengthSorted
from workers.engine import Engine
from workers.request import EncodeRequest, Encoding, Request, Result

_MAX_ROWS = 1024
#: model output and attention mask (num_rows, length) to float32 values, (num_rows, num_values) or of every token
#: (num_rows, length, num_values)
Head = Callable[[object, Tensor], Tensor]


class TorchEncoder(Engine):
    """Length-sorted batches under a token budget, padded on the right; one step is one batch."""

    gives_model_back = True

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        *,
        pad_id: int | None,
        max_tokens: int,
        token_budget: int,
        about: dict[str, str] | None = None,
    ) -> None:
        """`pad_id` None, for models that name none, fills each batch with an id that ends none of its rows."""
        self._model = model
        self._head = head
        self._pad_id = pad_id
        self._max_tokens = max_tokens
        self._about = about or {}
        self._vocab_size = model.get_input_embeddings().weight.shape[0]
        self._num_types = int(getattr(model.config, "type_vocab_size", 0) or 0)
        self._takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._waiting: LengthSorted[EncodeRequest] = LengthSorted(token_budget=token_budget, max_rows=_MAX_ROWS)
        self._ready: list[Encoding] = []
        self._counters = dict.fromkeys(("prompt_tokens", "padding_tokens", "out_of_memory"), 0)

    def add(self, requests: Sequence[Request]) -> None:
        """Queue encode requests; one the model cannot take is answered with an error."""
        for request in requests:
            assert isinstance(request, EncodeRequest)
            error = self._problem(request.token_ids)
            if error is not None:
                self._ready.append(_failed(request, error))
            else:
                self._waiting.add(request, len(request.token_ids))

    def _problem(self, ids: np.ndarray) -> str | None:
        if not len(ids):
            return "the text has no tokens"
        if len(ids) > self._max_tokens:
            return f"the text has {len(ids)} tokens, but the model takes {self._max_tokens}"
        if int(ids.max()) >= self._vocab_size or int(ids.min()) < 0:
            return "the text has token ids that the model does not know; its tokenizer.json is of another model"
        return None

    def step(self) -> list[Result]:
        """Encode one batch."""
        ready, self._ready = self._ready, []
        batch = self._waiting.take()
        return ready + (self._encode(batch) if batch else [])

    def _encode(self, batch: list[EncodeRequest]) -> list[Encoding]:
        try:
            return self._run(batch)
        except torch.OutOfMemoryError:
            self._counters["out_of_memory"] += 1
        # out of the except block, so that the traceback no longer holds the tensors
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            length = len(batch[0].token_ids)
            return [_failed(batch[0], f"the device ran out of memory on this row alone ({length} tokens)")]
        self._waiting.shrink(len(batch), len(batch[0].token_ids))
        self.add(batch)
        return []

    @torch.inference_mode()
    def _run(self, batch: list[EncodeRequest]) -> list[Encoding]:
        inputs = self._padded(batch)
        values = self._head(self._model(**inputs), inputs["attention_mask"]).cpu().numpy()
        num_tokens = sum(len(request.token_ids) for request in batch)
        self._counters["prompt_tokens"] += num_tokens
        self._counters["padding_tokens"] += inputs["input_ids"].numel() - num_tokens
        return [_encoding(request, row) for request, row in zip(batch, values, strict=True)]

    def _padded(self, batch: list[EncodeRequest]) -> dict[str, Tensor]:
        """input_ids, attention_mask and where the model knows segments token_type_ids: (num_rows, max_tokens) int64."""
        shape = (len(batch), max(len(request.token_ids) for request in batch))
        ids = np.full(shape, self._fill_id(batch), dtype=np.int64)
        mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for index, request in enumerate(batch):
            length = len(request.token_ids)
            ids[index, :length], mask[index, :length] = request.token_ids, 1
            if request.token_type_ids is not None:
                types[index, :length] = request.token_type_ids
        arrays = {"input_ids": ids, "attention_mask": mask}
        # models with one segment may still have a tokenizer that numbers two
        if self._takes_types and types.max() < self._num_types:
            arrays["token_type_ids"] = types
        return {name: torch.from_numpy(array).to(self._model.device) for name, array in arrays.items()}

    def _fill_id(self, batch: list[EncodeRequest]) -> int:
        if self._pad_id is not None:
            return self._pad_id
        # a decoder's classifier reads the last token that is not the padding id, so none of them may be
        ends = {int(request.token_ids[-1]) for request in batch}
        self._model.config.pad_token_id = next(number for number in range(len(ends) + 1) if number not in ends)
        return self._model.config.pad_token_id

    def cancel(self, ids: Collection[int]) -> None:
        gone = set(ids)
        self._waiting.forget(gone)
        self._ready = [encoding for encoding in self._ready if encoding.id not in gone]

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._ready)

    def describe(self) -> dict[str, str]:
        return {"backend": "transformers", **self._about}

    def stats(self) -> dict[str, float]:
        return {**self._counters, "token_budget": self._waiting.token_budget}


def _encoding(request: EncodeRequest, values: np.ndarray) -> Encoding:
    if values.ndim == 2:
        # values of tokens, padding included
        values = values[: len(request.token_ids)].reshape(-1)
    if not np.isfinite(values).all():
        return _failed(request, "the model gave values that are not finite; try model.dtype float32")
    return Encoding(id=request.id, values=values)


def _failed(request: EncodeRequest, error: str) -> Encoding:
    return Encoding(id=request.id, values=np.empty(0, np.float32), error=error)
