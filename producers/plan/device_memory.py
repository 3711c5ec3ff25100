"""What a job takes of a card's memory: weights, workspace of the largest step, and the rows that its cache holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from parquetry.producers.plan.model_shape import ModelShape

#: sizes of the packed engine, see workers/packed/options.py: torch is not loaded for them
TOKEN_BUDGET = 8448
MOST_ROWS = 1024
MEMORY_FRACTION = 0.9


class DeviceMemory(BaseModel):
    """Bytes on one card, as the engine for generation shares it out."""

    model_config = ConfigDict(frozen=True)

    weights: int
    #: of the largest step, estimated: hidden vectors, and logits of every row
    workspace: int
    #: what is left for the cache of the share that an engine takes
    cache: int
    cache_bytes_per_token: int
    #: tokens that the cache holds, and rows of the sampled length with it
    cache_tokens: int
    rows_at_once: int

    @classmethod
    def of(cls, shape: ModelShape, weights: int, device_bytes: int, row_tokens: float) -> DeviceMemory:
        """On a card of `device_bytes`; a row takes `row_tokens`, prompt and output."""
        workspace = _workspace(shape)
        cache = max(0, int(device_bytes * MEMORY_FRACTION) - weights - workspace)
        tokens = cache // max(shape.kv_bytes_per_token, 1)
        return cls(
            weights=weights,
            workspace=workspace,
            cache=cache,
            cache_bytes_per_token=shape.kv_bytes_per_token,
            cache_tokens=tokens,
            rows_at_once=min(MOST_ROWS, int(tokens / max(row_tokens, 1))),
        )


def _workspace(shape: ModelShape) -> int:
    """Of a step full of prompts: some vectors a token as wide as the model, three as its inner layers; logits twice."""
    vectors = TOKEN_BUDGET * (6 * shape.hidden_size + 3 * shape.inner_size) * shape.dtype_bytes
    return vectors + 2 * 4 * MOST_ROWS * shape.vocab_size
