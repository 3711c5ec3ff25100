"""Which layers of a model call the attention hook: refusals that the config decides, then one packed forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from parquetry.workers.checks.prompts import check_prompts
from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.attention.call import AttentionSpec
from parquetry.workers.packed.attention.hook import IMPLEMENTATION, recording
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.sdpa import attend_segment
from parquetry.workers.packed.attention.windows import read_windows

#: lengths of the two prompts that layers are found with; the longer one outgrows no positional table in use
NUM_TOKENS = (7, 12)


@contextmanager
def attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run with another attention implementation, and put the old one back."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class LayerRecorder:
    """Serves the hook from q, k and v alone and notes which layers called, in which order and with what shapes."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        self.layers: list[LayerShape] = []

    def __call__(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
        self.layers.append(LayerShape(module, q.shape[1], k.shape[1], k.shape[2], v.shape[2], k.dtype))
        q_by_row, k_by_row, v_by_row = (x.split(list(self.lengths)) for x in (q, k, v))
        return torch.cat([attend_segment(*row, spec) for row in zip(q_by_row, k_by_row, v_by_row, strict=True)])


def find_attention_layers(model: PreTrainedModel) -> list[LayerShape]:
    """The attention layers in call order. Raises UnsupportedModel when the hook cannot serve the model."""
    reason = declared_reason(model)
    if reason:
        raise UnsupportedModel(reason)
    prompts = check_prompts(None, model.config.get_text_config().vocab_size, NUM_TOKENS)
    recorder = LayerRecorder(NUM_TOKENS)
    try:
        packed_logits(model, prompts, recorder)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnsupportedModel(f"its forward pass does not take packed input: {error}") from error
    expected = model.config.get_text_config().num_hidden_layers
    if not recorder.layers:
        raise UnsupportedModel(f"{type(model).__name__} does not route its attention through the attention interface")
    if len(recorder.layers) != expected or len({id(layer.module) for layer in recorder.layers}) != expected:
        raise UnsupportedModel(f"the attention hook ran {len(recorder.layers)} times for {expected} layers")
    read_windows(model, recorder.layers)
    return recorder.layers


@torch.inference_mode()
def packed_logits(model: PreTrainedModel, prompts: Sequence[np.ndarray], recorder: LayerRecorder) -> Tensor:
    """All logits (num_tokens, vocab) of the prompts in one packed forward pass."""
    ids = torch.from_numpy(np.concatenate(prompts)).long().to(model.device)
    positions = torch.cat([torch.arange(len(tokens), device=model.device) for tokens in prompts])
    with attention_implementation(model, IMPLEMENTATION), recording(recorder):
        return model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0]


def declared_reason(model: PreTrainedModel) -> str | None:
    """What the class and its config already rule out."""
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return f"{type(model).__name__} computes logits of every token, whichever are asked for"
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        return f"it is spread over {len(devices)} devices"
    return foreign_layers(config)


def foreign_layers(config: PreTrainedConfig) -> str | None:
    """Why the layers that a text config names cannot be served, or None."""
    foreign = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if foreign:
        return f"its layers of type {', '.join(sorted(foreign))} keep state the KV cache cannot hold"
    return None
