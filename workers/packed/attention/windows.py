"""Which keys each layer lets a query see, read off the masks that the model makes for its stock attention.

Some classes tell their attention function of a sliding window, some only draw it into the mask, and some draw more than
a window. The mask is what the stock model obeys, so it is what counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import eager_mask

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.attention.call import AttentionSpec
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.sdpa import attend_masked, visible_keys

IMPLEMENTATION = "parquetry_masks"
#: keys that a query sees while windows are shortened, so that a short prompt outgrows them
SHORT_WINDOW = 8
#: tokens of the prompt whose masks are read
NUM_TOKENS = 3 * SHORT_WINDOW


class _Masks:
    """The masks of the pass that is being computed, by the layers that were given them."""

    seen: dict[int, Tensor | None]


def note_mask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Note what a layer may see. What it then computes is of no account."""
    _Masks.seen[id(module)] = attention_mask
    positions = torch.arange(query.shape[2], device=query.device)
    causal = visible_keys(positions, positions, 0)
    out = attend_masked(query, key, value, causal, AttentionSpec(query.shape[-1] ** -0.5))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, note_mask)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)


@torch.inference_mode()
def read_windows(model: PreTrainedModel, layers: Sequence[LayerShape]) -> None:
    """Note every layer's window on its module, 0 where all keys are seen. Raises UnsupportedModel for other masks."""
    config = model.config.get_text_config()
    before, window = model.config._attn_implementation, window_of(config)
    _Masks.seen = {}
    ids = torch.arange(NUM_TOKENS, device=model.device)[None] % config.vocab_size
    with shortened(config):
        model.set_attn_implementation(IMPLEMENTATION)
        try:
            model(input_ids=ids, use_cache=False)
        finally:
            model.set_attn_implementation(before)
    for number, layer in enumerate(layers):
        seen = visible_window(_Masks.seen.get(id(layer.module)), number)
        is_shortened = seen and window > SHORT_WINDOW
        layer.module.packed_sliding_window = seen + window - SHORT_WINDOW if is_shortened else seen  # type: ignore[assignment]
    require_same_memory(config, layers)


def require_same_memory(config: PreTrainedConfig, layers: Sequence[LayerShape]) -> None:
    """Raise UnsupportedModel when the stock cache drops keys that a layer's mask lets it see: then it is the cache that
    counts, but for the prompt alone.
    """
    kept = DynamicCache(config=config).layers
    if len(kept) != len(layers):
        return
    for number, (layer, of_cache) in enumerate(zip(layers, kept, strict=True)):
        if getattr(of_cache, "is_sliding", False) and not layer.module.packed_sliding_window:
            raise UnsupportedModel(f"the cache of its layer {number + 1} forgets what the layer's mask still shows")


def visible_window(mask: Tensor | None, number: int) -> int:
    """The window that a mask (1, heads, num_tokens, num_tokens) draws, 0 for none; `number` of its layer, from 0."""
    if mask is None:
        return 0
    allowed = mask if mask.dtype is torch.bool else mask == 0
    positions = torch.arange(mask.shape[-1], device=mask.device)
    window = int(allowed.sum(-1).max())
    window = 0 if window == mask.shape[-1] else window
    if not bool((allowed == visible_keys(positions, positions, window)).all()):
        raise UnsupportedModel(f"the mask of its layer {number + 1} is no sliding window")
    return window


def window_of(config: PreTrainedConfig) -> int:
    """The sliding window that a text config names, 0 for none."""
    return int(getattr(config, "sliding_window", None) or 0)


@contextmanager
def shortened(config: PreTrainedConfig) -> Iterator[None]:
    """The model draws masks of SHORT_WINDOW where its windows are longer."""
    window = window_of(config)
    if window <= SHORT_WINDOW:
        yield
        return
    config.sliding_window = SHORT_WINDOW
    try:
        yield
    finally:
        config.sliding_window = window


@contextmanager
def short_windows(model: PreTrainedModel, layers: Sequence[LayerShape]) -> Iterator[None]:
    """Stock and packed layers see SHORT_WINDOW keys where their windows are longer."""
    modules: list[Any] = [layer.module for layer in layers if layer.module.packed_sliding_window]
    windows = [module.packed_sliding_window for module in modules]
    with shortened(model.config.get_text_config()):
        for module in modules:
            module.packed_sliding_window = min(module.packed_sliding_window, SHORT_WINDOW)
        try:
            yield
        finally:
            for module, window in zip(modules, windows, strict=True):
                module.packed_sliding_window = window
