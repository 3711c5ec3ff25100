"""Can the hook serve this model? Cheap refusals first, then one packed forward pass against the eager model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from parquetry.workers.engine import UnsupportedModel
from parquetry.workers.packed.attention.hook import IMPLEMENTATION, AttentionSpec, recording
from parquetry.workers.packed.attention.kv_cache import LayerShape
from parquetry.workers.packed.attention.sdpa import attend_segment

log = logging.getLogger(__name__)

#: lengths of the two sequences of the self check; the longer one outgrows no positional table in use
PROBE_LENS = (7, 12)
#: largest relative error of the logits, by dtype
TOLERANCE = {torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 8e-2}
#: the same for a quantized model, of logits less their mean. Where activations are quantized as well, a difference in
#: the last bit of one can move it by a whole step of a grid of 8 bits: int8 gives 0.18 on SmolLM2-135M, where one token
#: that sees another sequence gives 0.44
QUANTIZED_TOLERANCE = 0.35


@contextmanager
def attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Run with another attention implementation, and put the old one back."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


class LayerRecorder:
    """Serves the hook from q, k and v alone and notes which layers called, in which order and with what shapes."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths
        self.layers: list[LayerShape] = []

    def __call__(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
        self.layers.append(LayerShape(module, q.shape[1], k.shape[1], k.shape[2], v.shape[2], k.dtype))
        parts = zip(*(x.split(list(self.lengths)) for x in (q, k, v)), strict=True)
        return torch.cat([attend_segment(*part, spec) for part in parts])


def probe_ids(model: nn.Module) -> list[Tensor]:
    """Two short sequences of token ids on the model's device."""
    vocab = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, vocab, (n,), generator=generator).to(model.device) for n in PROBE_LENS]


def eager_logits(model: nn.Module, sequences: list[Tensor]) -> list[Tensor]:
    """All logits (num_tokens, vocab) of each sequence, one at a time, through the model's own eager attention."""
    with attention_implementation(model, "eager"), torch.inference_mode():
        return [model(input_ids=ids[None], use_cache=False).logits[0].float() for ids in sequences]


def packed_logits(model: nn.Module, sequences: list[Tensor], recorder: LayerRecorder) -> Tensor:
    """All logits (num_tokens, vocab) of the sequences in one packed forward pass."""
    positions = torch.cat([torch.arange(len(ids), device=model.device) for ids in sequences])
    with attention_implementation(model, IMPLEMENTATION), recording(recorder), torch.inference_mode():
        return model(input_ids=torch.cat(sequences)[None], position_ids=positions[None], use_cache=False).logits[0]


def relative_error(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|, and infinity when either is not finite."""
    error = float((got.float() - want.float()).norm() / want.float().norm().clamp_min(1e-9))
    return error if error == error else float("inf")


def centred(logits: Tensor) -> Tensor:
    """Logits (num_tokens, vocab) less the mean of each row, most of a trained model's norm, which tells nothing."""
    return logits.float() - logits.float().mean(-1, keepdim=True)


def check_logits(model: nn.Module, got: Tensor, want: Tensor, what: str) -> None:
    """Raise UnsupportedModel when `got` is further from `want` than rounding explains in a model of this kind.

    `what` says which logits differ from which.
    """
    if getattr(model.config, "quantization_config", None) is None:
        error, limit = relative_error(got, want), TOLERANCE.get(model.dtype, max(TOLERANCE.values()))
    else:
        error, limit = relative_error(centred(got), centred(want)), QUANTIZED_TOLERANCE
    if error > limit:
        raise UnsupportedModel(f"{what}: relative error {error:.3g}, limit {limit:.3g}")


def probe_layers(model: nn.Module) -> list[LayerShape]:
    """The attention layers in call order. Raises UnsupportedModel when the hook cannot serve the model."""
    reason = declared_reason(model)
    if reason:
        raise UnsupportedModel(reason)
    sequences = probe_ids(model)
    recorder = LayerRecorder(PROBE_LENS)
    try:
        want = torch.cat(eager_logits(model, sequences))
        got = packed_logits(model, sequences, recorder)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnsupportedModel(f"its forward pass does not take packed input: {error}") from error
    expected = model.config.get_text_config().num_hidden_layers
    if not recorder.layers:
        raise UnsupportedModel(f"{type(model).__name__} does not route its attention through the attention interface")
    if len(recorder.layers) != expected or len({id(layer.module) for layer in recorder.layers}) != expected:
        raise UnsupportedModel(f"the attention hook ran {len(recorder.layers)} times for {expected} layers")
    check_logits(model, got, want, "packed logits differ from the eager model")
    return recorder.layers


def declared_reason(model: nn.Module) -> str | None:
    """What the class and its config already rule out."""
    config = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
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
