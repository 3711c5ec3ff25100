"""Checks that a model may be packed: by its configuration, then packed rows beside rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.schemas.errors import EngineRefusedError
from parquetry.workers.encoding import attention
from parquetry.workers.encoding.families import config_reason, head_dim_of
from parquetry.workers.encoding.positions import Positions
from parquetry.workers.encoding.row_batch import PackedBatch, pack
from parquetry.workers.request import EncodeRequest

#: largest relative error of a row's hidden states against the model's own attention, by dtype
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}
#: by how much, relative to its size, a row may change with its neighbours; equal shapes run equal kernels
ISOLATION = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
#: a sliding window beyond this is not outgrown by the rows of the check, which would take longer than loading the model
_LONGEST_SLIDING_WINDOW = 512


class Body(Protocol):
    """A model without its head, over packed batches."""

    positions: Positions

    def __call__(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Hidden states (num_tokens, dim) and cu_seqlens."""


def unsupported_reason(model: PreTrainedModel) -> str | None:
    """Why the model cannot be packed, in words that fit a log line; None when it may be tried."""
    reason = config_reason(model.config)
    if reason is not None:
        return reason
    if not getattr(model, "_supports_attention_backend", True):
        return f"{type(model).__name__} does not go through the attention interface"
    return _device_reason(model)


def _device_reason(model: PreTrainedModel) -> str | None:
    config, parameter = model.config, next(model.parameters())
    if not parameter.is_cuda:
        return None
    head_dim = head_dim_of(config)
    if head_dim % 8 or head_dim > 256:
        return f"the varlen kernels take head sizes in steps of 8 up to 256, not {head_dim}"
    grouped = getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)
    if model.dtype == torch.float32 and (grouped or sliding_window_of(model)):
        return "float32 on a GPU packs neither sliding windows nor query groups; choose bfloat16 or float16"
    return None


def check_packed_rows(model: PreTrainedModel, body: Body) -> None:
    """Compare packed rows with rows alone under the model's own attention. Raises EngineRefusedError.

    Also counts hook calls, and checks that a row does not change with its neighbours: a layer that mixes rows moves
    them by far more than rounding, whatever the precision.
    """
    reason = unsupported_reason(model)
    if reason is not None:
        raise EngineRefusedError(reason=reason)
    first, second = _check_rows(model, body.positions.max_tokens)
    own = _own_attention(model, first)
    before = attention.num_calls()
    with torch.inference_mode():
        packed, others = body(pack(first))[0].float(), body(pack(second))[0].float()
    calls = (attention.num_calls() - before) // 2
    if calls != model.config.num_hidden_layers:
        reason = f"its {model.config.num_hidden_layers} layers called the attention hook {calls} times"
        raise EngineRefusedError(reason=reason)
    shared = len(first[0].token_ids)
    moved = _error(others[:shared], packed[:shared])
    _require(moved, ISOLATION[model.dtype], "a packed row changes with its neighbours")
    _require(_error(packed, own), TOLERANCE[model.dtype], "packed rows differ from rows alone")


def require_unchanged(model: PreTrainedModel, body: Body, budget: int, change: Callable[[], object]) -> None:
    """Make a change that must not move packed hidden states beyond rounding. Raises EngineRefusedError.

    The batch is a full one: a compiler tunes its kernels for the first number of tokens it meets.
    """
    rows = _check_rows(model, body.positions.max_tokens)[0]
    num_tokens = sum(len(request.token_ids) for request in rows)
    batch = pack(rows * max(1, budget // num_tokens))
    with torch.inference_mode():
        before = body(batch)[0].float()
        change()
        after = body(batch)[0].float()
    _require(_error(after, before), TOLERANCE[model.dtype], "faster kernels change the hidden states")


def _require(error: float, limit: float, what: str) -> None:
    # written so that NaN fails
    if not error <= limit:
        raise EngineRefusedError(reason=f"{what} by {error:.1e}, more than {limit:.0e} (relative)")


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _own_attention(model: PreTrainedModel, requests: list[EncodeRequest]) -> Tensor:
    """Hidden states (num_tokens, dim) of each row computed alone: no mask, no padding, positions the model's own."""
    device = next(model.parameters()).device
    rows = []
    with torch.inference_mode(), stock_attention(model):
        for request in requests:
            ids = torch.from_numpy(request.token_ids).long().to(device)[None]
            rows.append(model.base_model(input_ids=ids).last_hidden_state[0].float())
    return torch.cat(rows)


@contextmanager
def stock_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model compute attention as its class does, in between."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if getattr(model, "_supports_sdpa", False) else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _check_rows(model: PreTrainedModel, max_tokens: int | None) -> tuple[list[EncodeRequest], list[EncodeRequest]]:
    """Two batches of the same lengths that share their first row; it outgrows the sliding window, if there is one."""
    width = sliding_window_of(model)
    longest = 12 + (2 * width if width <= _LONGEST_SLIDING_WINDOW else 0)
    longest = min(longest, max_tokens or longest)
    lens = [longest, max(1, longest - 3), max(1, longest // 2)]
    random = np.random.default_rng(0)
    rows = [random.integers(0, model.config.vocab_size, size, dtype=np.int32) for size in (*lens, *lens[1:])]
    # the padding id means something to some embeddings
    rows = [np.where(row == model.config.pad_token_id, (row + 1) % model.config.vocab_size, row) for row in rows]
    requests = [EncodeRequest(id=index, token_ids=row.astype(np.int32)) for index, row in enumerate(rows)]
    return requests[:3], [requests[0], *requests[3:]]


def sliding_window_of(model: PreTrainedModel) -> int:
    """Tokens that a layer with a sliding window sees to each side; 0 when all layers see everything."""
    kinds = getattr(model.config, "layer_types", None) or []
    width = getattr(model.config, "sliding_window", None) or 0
    return int(width) if not kinds or "sliding_attention" in kinds else 0
