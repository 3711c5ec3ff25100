"""A packed encoder beside the stock one: each layer on ordinary texts, in units of the stock layer's noise."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.checks.comparison import Comparison, Span
from parquetry.workers.checks.prompts import TextTokenizer, check_prompts
from parquetry.workers.checks.stock_run import PromptRun, run_stock
from parquetry.workers.encoding.attention import varlen_hook
from parquetry.workers.encoding.batching.row_batch import PackedBatch, pack
from parquetry.workers.encoding.packed.block_layers import layer_list
from parquetry.workers.encoding.packed.objections import sliding_window_of, stock_attention, unsupported_reason
from parquetry.workers.encoding.positions import Positions
from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.request import EncodeRequest

#: tokens of the longest text; on a CPU fewer, since the stock model computes them twice
NUM_TOKENS = {"cuda": 150, "cpu": 40}
#: a sliding window beyond this is not outgrown by the rows of the check, which would take longer than loading the model
LONGEST_SLIDING_WINDOW = 512


class LayersDifferError(EngineRefusedError):
    """The engine refused the job: {reason}."""


class Body(Protocol):
    """A model without its head, over packed batches."""

    def __call__(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Hidden states (num_tokens, dim) and cu_seqlens."""


@dataclass
class LayerCheck:
    """The stock model's layers on a few texts, each alone, and what a packed model is held against."""

    layers: nn.ModuleList
    runs: list[PromptRun]

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: TextTokenizer | None = None) -> LayerCheck:
        """Run the stock model under its own attention. Raises EngineRefusedError where it cannot be packed."""
        reason = unsupported_reason(model)
        if reason is not None:
            raise EngineRefusedError(reason=reason)
        layers, body = layer_list(model), model.base_model
        if layers is None:
            reason = f"{type(model).__name__} keeps its layers in no list, so they cannot be checked"
            raise EngineRefusedError(reason=reason)
        # a cache would grow with every layer that is computed twice
        options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}

        def forward(ids: Tensor) -> Tensor:
            hidden: Tensor = body(input_ids=ids, **options).last_hidden_state[0]
            return hidden

        with stock_attention(model):
            return cls(layers, run_stock(model, layers, _texts(model, tokenizer), forward=forward))

    def require(self, body: Body, what: str, num_tokens: int = 0) -> None:
        """Compute the texts packed, as often as they fit into `num_tokens`, at least once.

        A compiler tunes its kernels for the first number of tokens that it meets. Raises EngineRefusedError, beginning
        with `what`, where a layer gives something else, or does not go through the attention hook.
        """
        rows = [EncodeRequest(id=number, token_ids=run.tokens) for number, run in enumerate(self.runs)]
        batch = pack(rows * max(1, num_tokens // sum(len(run.tokens) for run in self.runs)))
        comparison = Comparison(self.runs, self.layers, None)
        before = varlen_hook.num_calls()
        with torch.inference_mode(), comparison.watching([self._span(number) for number in batch.ids.tolist()]):
            comparison.see_end(body(batch)[0])
        calls, wanted = varlen_hook.num_calls() - before, len(self.runs[0].layers)
        if calls != wanted:
            raise EngineRefusedError(reason=f"its {wanted} layers called the attention hook {calls} times")
        try:
            comparison.require(what)
        except UnsupportedModel as error:
            raise LayersDifferError(reason=str(error)) from error

    def _span(self, number: int) -> Span:
        return Span(number, 0, len(self.runs[number].tokens))


def _texts(model: PreTrainedModel, tokenizer: TextTokenizer | None) -> list[np.ndarray]:
    """Three texts without the padding id, which means something to some embeddings; they outgrow sliding windows."""
    width, limit = sliding_window_of(model), Positions.of(model).max_tokens
    longest = max(NUM_TOKENS[model.device.type], 12 + 2 * width if width <= LONGEST_SLIDING_WINDOW else 0)
    longest = min(longest, limit or longest)
    vocab_size, pad_id = model.config.vocab_size, model.config.get_text_config().pad_token_id
    texts = check_prompts(tokenizer, vocab_size, [longest, max(1, longest - 3), max(1, longest // 2)])
    return [np.where(text == pad_id, (text + 1) % vocab_size, text).astype(np.int32) for text in texts]
