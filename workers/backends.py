"""Chooses and loads the engine of a spec."""

from __future__ import annotations

import importlib.metadata
import logging
from typing import Any

import tokenizers
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from schemas.errors import UnsupportedOptionError
from schemas.settings import settings
from workers.checkpoint import Checkpoint
from workers.encoding.optimum_encoder import load_optimum
from workers.encoding.pooling import pool_padded
from workers.encoding.projection import Projection
from workers.encoding.selection import onnx_encoder, packed_encoder
from workers.encoding.vectors import after_pooling, pooling_of
from workers.engine import Engine
from workers.engine_spec import EngineSpec
from workers.heads import choose_activation, label_scores, token_labels
from workers.loading.attention_choice import PACKED_ONLY, attention_name
from workers.loading.model import dtype_name, is_spread, load_model
from workers.loading.packages import require
from workers.loading.placement import memory_fraction
from workers.loading.plan import LoadingPlan
from workers.loading.quantization import packing_obstacle
from workers.packed.options import PackedOptions
from workers.pulse import Beat
from workers.torch_encoder import Head, TorchEncoder
from workers.transformers_generate import MAX_ROWS, TransformersGenerate

log = logging.getLogger(__name__)
_CPU_TOKEN_BUDGET = 4096
_CUDA_ENCODER_TOKEN_BUDGET = 32768
#: share of the free device memory that keys and values of a padded batch may fill
_KV_SHARE = 0.4
_NO_IMAGES = "prompts hold images"
#: config keys that hold the number of layers of a decoder beside an encoder
_DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
#: what the packed engine takes of model.attention; it computes sdpa under whichever kernel the model is pinned to
_PACKED_ATTENTION = {
    **{name: name for name in ("auto", "sdpa", "triton", "flash_attention_2")},
    **{f"sdpa-{kernel}": "sdpa" for kernel in ("flash", "math")},
}


def load_engine(spec: EngineSpec, *, beat: Beat = lambda: None) -> Engine:
    """Load the model and put the best engine on top. `beat` is called as a sign of life from inside long work.

    Raises UnsupportedOptionError, MissingPackageError, ModelNotFoundError and the like, each with what to change.
    """
    if spec.model.backend == "optimum":
        return load_optimum(spec)
    if spec.model.backend == "onnxruntime" and spec.task == "generate":
        reason = "it serves classify, score and embed; set model.backend to auto or packed"
        raise UnsupportedOptionError(option="model.backend onnxruntime for task generate", reason=reason)
    checkpoint = Checkpoint.resolve(spec.model)
    if spec.model.backend == "onnxruntime":
        LoadingPlan(spec.model, checkpoint).check()
        return onnx_encoder(spec, checkpoint, _options_about(spec))
    return put_engine(load_model(spec, checkpoint, auto_class(spec, checkpoint)), spec, checkpoint, beat)


def auto_class(spec: EngineSpec, checkpoint: Checkpoint) -> Any:
    """The transformers class that loads the model with the head that the task needs. Raises MissingPackageError."""
    if spec.images:
        require("PIL", feature="prompt.image")
        return AutoModelForImageTextToText
    if spec.task == "generate":
        return _generator_class(checkpoint)
    if spec.task == "embed":
        return AutoModel
    return AutoModelForTokenClassification if _labels_tokens(spec, checkpoint) else AutoModelForSequenceClassification


def _labels_tokens(spec: EngineSpec, checkpoint: Checkpoint) -> bool:
    return spec.task == "classify" and checkpoint.is_token_classifier


def put_engine(model: nn.Module, spec: EngineSpec, checkpoint: Checkpoint, beat: Beat) -> Engine:
    """The best engine on a loaded model that nothing else uses. Raises UnsupportedOptionError."""
    for hook in model.__dict__.pop("beat_hooks", ()):
        hook.remove()
    if spec.images:
        return _vision_generator(spec, checkpoint, model, beat)
    return (_generator if spec.task == "generate" else _encoder)(spec, checkpoint, model, beat)


def _generator(spec: EngineSpec, checkpoint: Checkpoint, model: nn.Module, beat: Beat) -> Engine:
    if spec.device == "cpu":
        beat_in_layers(model, beat)
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    reason = "model.backend is transformers"
    if spec.model.backend != "transformers":
        packed = _try_packed(spec, checkpoint, model, tokenizer)
        if isinstance(packed, Engine):
            return packed
        reason = packed
        if spec.model.backend == "packed" or spec.model.attention in PACKED_ONLY:
            raise UnsupportedOptionError(option=_packed_option(spec), reason=reason)
        log.warning("this model runs through transformers' padded generate, not the packed engine: %s", reason)
    if spec.device != "cpu":
        beat_in_layers(model, beat)
    return TransformersGenerate(
        model,
        tokenizer,
        eos_ids=checkpoint.eos_ids,
        pad_id=checkpoint.pad_id,
        token_budget=spec.token_budget or _generation_budget(model),
        about={**_about(spec, model), "why_not_packed": reason},
        beat=beat,
    )


def _generator_class(checkpoint: Checkpoint) -> Any:
    if checkpoint.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    # the few vision models that transformers also knows as text models keep that class
    is_text = checkpoint.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if checkpoint.is_vision and not is_text else AutoModelForCausalLM


def _vision_generator(spec: EngineSpec, checkpoint: Checkpoint, model: nn.Module, beat: Beat) -> Engine:
    from workers.vision.engine import VisionGenerate
    from workers.vision.layout import has_known_layout
    from workers.vision.processor import RowProcessor, load_processor

    processor = load_processor(checkpoint)
    beat_in_layers(model, beat)
    rows = RowProcessor(processor, model.dtype, settings().image_max_pixels)
    max_rows = MAX_ROWS
    if not has_known_layout(rows):
        log.warning("rows of this model run one at a time: its processor lays out batches in a way of its own")
        max_rows = 1
    return VisionGenerate(
        model,
        tokenizers.Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json")),
        eos_ids=checkpoint.eos_ids,
        pad_id=checkpoint.pad_id,
        token_budget=spec.token_budget or _generation_budget(model),
        max_rows=max_rows,
        about={**_about(spec, model), "why_not_packed": _NO_IMAGES, "pillow": importlib.metadata.version("pillow")},
        beat=beat,
        make=lambda request: rows(request.text, request.images, is_plain=request.is_plain),
        max_model_len=checkpoint.context_window,
    )


def _encoder(spec: EngineSpec, checkpoint: Checkpoint, model: nn.Module, beat: Beat) -> Engine:
    head, facts = _head(spec, checkpoint, model)
    if spec.device == "cpu":
        beat_in_layers(model, beat)
    # on a CPU the two are about as fast, and the padded one needs nothing of the model
    reason = "model.backend is transformers" if spec.model.backend == "transformers" else "the device is a CPU"
    if spec.model.backend == "packed" or (spec.model.backend == "auto" and spec.device != "cpu"):
        packed = packing_obstacle(spec.model) or packed_encoder(spec, checkpoint, model, _about(spec, model))
        if isinstance(packed, Engine):
            return packed
        reason = packed
        if spec.model.backend == "packed":
            raise UnsupportedOptionError(option="model.backend packed", reason=reason)
        log.warning("this model runs in padded batches, sorted by length: %s", reason)
    if spec.device != "cpu":
        beat_in_layers(model, beat)
    budget = _CPU_TOKEN_BUDGET if spec.device == "cpu" else _CUDA_ENCODER_TOKEN_BUDGET
    return TorchEncoder(
        model,
        head,
        pad_id=checkpoint.text_config.get("pad_token_id"),
        max_tokens=checkpoint.context_window,
        token_budget=spec.token_budget or budget,
        about={**_about(spec, model), **facts, "why_not_packed": reason},
    )


def _head(spec: EngineSpec, checkpoint: Checkpoint, model: nn.Module) -> tuple[Head, dict[str, str]]:
    """What turns a padded batch's outputs into answers, and what provenance says of it."""
    if spec.task == "embed":
        return _embedding_head(spec, checkpoint, model)
    return _token_head(model) if _labels_tokens(spec, checkpoint) else _classification_head(spec, model)


def _embedding_head(spec: EngineSpec, checkpoint: Checkpoint, model: nn.Module) -> tuple[Head, dict[str, str]]:
    mode = pooling_of(spec, checkpoint)
    options = after_pooling(spec, checkpoint)
    projection = Projection(**options, normalize=spec.normalize).to(model.device)

    def head(output: object, mask: torch.Tensor) -> torch.Tensor:
        return projection(pool_padded(output.last_hidden_state.float(), mask, mode))

    return head, {"pooling": mode, "embedding_dim": str(projection.width(model.config.hidden_size, mode))}


def _classification_head(spec: EngineSpec, model: nn.Module) -> tuple[Head, dict[str, str]]:
    activation = choose_activation(model.config, spec.task)

    def head(output: object, mask: torch.Tensor) -> torch.Tensor:
        return label_scores(output.logits, activation)

    return head, {"activation": activation, "num_labels": str(model.config.num_labels)}


def _token_head(model: nn.Module) -> tuple[Head, dict[str, str]]:
    def head(output: object, mask: torch.Tensor) -> torch.Tensor:
        return token_labels(output.logits)

    return head, {"activation": "softmax", "num_labels": str(model.config.num_labels)}


def _packed_option(spec: EngineSpec) -> str:
    """The option that asks for the packed engine and no other."""
    return "model.backend packed" if spec.model.backend == "packed" else f"model.attention {spec.model.attention}"


def _try_packed(
    spec: EngineSpec, checkpoint: Checkpoint, model: nn.Module, tokenizer: tokenizers.Tokenizer
) -> Engine | str:
    """The packed engine on this model, or why it cannot serve it."""
    if spec.model.attention not in _PACKED_ATTENTION:
        return f"it has no attention {spec.model.attention}"
    if is_spread(model):
        return "its weights are spread over several devices"
    if obstacle := packing_obstacle(spec.model):
        return obstacle
    from workers.packed.engine import PackedEngine
    from workers.packed.probe import UnsupportedModel

    reason = PackedEngine.unsupported_reason(model)
    if reason is not None:
        return reason
    attention = model.config._attn_implementation
    try:
        return PackedEngine(model, tokenizer, checkpoint.eos_ids, packed_options(spec, checkpoint))
    except UnsupportedModel as error:
        # it failed its own check on the loaded weights; the model goes back to stock attention
        model.set_attn_implementation(attention)
        return str(error)


def packed_options(spec: EngineSpec, checkpoint: Checkpoint) -> PackedOptions:
    """What the job asks of the packed engine."""
    # bitsandbytes' int8 products are not made for torch.compile
    is_compiled = spec.model.compile and spec.model.quantization != "int8"
    options = {"attention": _PACKED_ATTENTION[spec.model.attention], "compile": is_compiled}
    options["max_model_len"] = checkpoint.context_window
    options["memory_fraction"] = memory_fraction(spec.model, spec.device, default=PackedOptions.memory_fraction)
    if spec.token_budget is not None:
        options["token_budget"] = spec.token_budget
    return PackedOptions(**options)


def _generation_budget(model: nn.Module) -> int:
    """Tokens a padded batch may come to hold: a fixed number on a CPU, else what fits beside the weights."""
    if model.device.type == "cpu":
        return 2 * _CPU_TOKEN_BUDGET
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # an encoder-decoder keeps the prompt's keys and values in its decoder's layers; its config counts the encoder's
    layers = next(filter(None, (getattr(config, name, None) for name in _DECODER_LAYERS)), config.num_hidden_layers)
    token_bytes = 2 * layers * heads * head_dim * model.dtype.itemsize
    free_bytes, _ = torch.cuda.mem_get_info(model.device)
    return max(_CPU_TOKEN_BUDGET, int(free_bytes * _KV_SHARE) // token_bytes)


def beat_in_layers(model: nn.Module, beat: Beat) -> None:
    """Show life before every layer: on a slow device one forward pass may take longer than a stall is allowed to."""
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                hooks.append(layer.register_forward_pre_hook(lambda _module, _args: beat()))
    model.beat_hooks = hooks


def _options_about(spec: EngineSpec) -> dict[str, str]:
    """What provenance says of an engine that holds no torch model."""
    return {"attention": "onnxruntime", "quantization": spec.model.quantization, "device": spec.device}


def _about(spec: EngineSpec, model: nn.Module) -> dict[str, str]:
    return {
        "attention": attention_name(model, spec.model.attention),
        "dtype": dtype_name(model),
        "quantization": spec.model.quantization,
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
