"""A model without its head, over packed batches."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.encoding.attention.varlen_hook import IMPLEMENTATION, within_rows
from parquetry.workers.encoding.batching.device_batch import DeviceBatch, HostSegments, copy_to_device, layout_of
from parquetry.workers.encoding.batching.row_batch import PackedBatch
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.packed.layer_check import LayerCheck
from parquetry.workers.encoding.packed.objections import stock_attention
from parquetry.workers.encoding.positions import Positions


class PackedBody:
    """Hidden states of packed batches, through the attention hook."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._module = model.base_model
        self._takes_types = _takes_types(self._module)
        with stock_attention(model):
            self.positions = Positions.of(model)
        self.device = next(model.parameters()).device
        self.dtype = model.dtype
        model.set_attn_implementation(IMPLEMENTATION)

    @classmethod
    def checked(cls, model: PreTrainedModel, check: LayerCheck | None = None) -> PackedBody:
        """Raises EngineRefusedError, and leaves the model as it was, when packed rows come out wrong.

        Without a `check` the rows are of random tokens.
        """
        check = check or LayerCheck.of(model)
        own = model.config._attn_implementation
        body = cls(model)
        try:
            check.require(body, "packed rows differ from rows alone")
        except (EngineRefusedError, RuntimeError) as error:
            # the caller may still want to run the model padded
            model.set_attn_implementation(own)
            if isinstance(error, EngineRefusedError):
                raise
            raise EngineRefusedError(reason=f"a packed forward pass failed ({error})") from error
        return body

    def __call__(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """The last hidden states (num_tokens, dim), and cu_seqlens (num_rows + 1,) on the device."""
        layout, segments = layout_of(batch), self.segments(batch)
        buffer = copy_to_device(layout.host(batch, self.positions.start), self.device)
        return self.forward(layout.split(buffer, segments)), segments.cu_seqlens

    def segments(self, batch: PackedBatch) -> HostSegments:
        """Where the batch's rows are."""
        return HostSegments(copy_to_device(batch.cu_seqlens, self.device), batch.max_seqlen, batch.runs)

    def forward(self, batch: DeviceBatch) -> Tensor:
        """(num_tokens, dim) hidden states of a batch that is on the device."""
        # segment ids are always given: some models would otherwise slice a table no longer than their longest row
        inputs: dict[str, Any] = {"token_type_ids": batch.types} if self._takes_types else {}
        with within_rows(batch.segments):
            out = self._module(input_ids=batch.ids, position_ids=batch.positions, attention_mask=None, **inputs)
        return out.last_hidden_state[0]


def limits_of(model: PreTrainedModel, positions: Positions, max_tokens: int | None = None) -> RowLimits:
    """What rows the model takes, and no more than `max_tokens` where its tokenizer or folder sets a lower limit."""
    config = model.config
    types = getattr(config, "type_vocab_size", 0) if _takes_types(model.base_model) else 0
    bounds = [bound for bound in (positions.max_tokens, max_tokens) if bound is not None]
    return RowLimits(vocab_size=config.vocab_size, max_tokens=min(bounds, default=None), type_vocab_size=types or 0)


def _takes_types(body: PreTrainedModel) -> bool:
    parameters = inspect.signature(body.forward).parameters
    return "token_type_ids" in parameters and bool(getattr(body.config, "type_vocab_size", 0))
