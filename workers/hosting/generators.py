"""The engine of task generate on a loaded model: packed where the model allows it, padded by transformers elsewhere."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import replace

import tokenizers
from transformers import PreTrainedModel

from parquetry.schemas.errors import UnsupportedOptionError, UnusableModelError
from parquetry.schemas.settings import settings
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.forecast import Forecast
from parquetry.workers.checks.sharing import Sharing, choose_sharing, rows_to_share
from parquetry.workers.checks.stock_attention import trusted_attention
from parquetry.workers.engine import Engine, UnsupportedModel, WrongAnswers
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.loaded_model import about, pulse_in_layers
from parquetry.workers.loading.attention_choice import PACKED_ONLY
from parquetry.workers.loading.devices.placement import memory_limit
from parquetry.workers.loading.model import is_spread
from parquetry.workers.loading.quantization.quantization import packing_obstacle
from parquetry.workers.packed.memory import free_bytes
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.padded.generate import TransformersGenerate
from parquetry.workers.padded.long_rope import long_rope_reason
from parquetry.workers.padded.trial import NUM_OUTPUTS
from parquetry.workers.process.pulse import SendPulse

log = logging.getLogger(__name__)
_CPU_TOKEN_BUDGET = 8192
_LEAST_TOKEN_BUDGET = 4096
#: share of the free device memory that keys and values of a padded batch may fill
_KV_SHARE = 0.4
_NO_IMAGES = "prompts hold images"
OWN_LAYOUT = "the model's processor lays out batches in a way of its own"
#: config keys that hold the number of layers of a decoder beside an encoder
_DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
#: what the packed engine takes of model.attention; it computes sdpa under whichever kernel the model is pinned to
_PACKED_ATTENTION = {
    **{name: name for name in ("auto", "sdpa", "triton", "flash_attention_2")},
    **{f"sdpa-{kernel}": "sdpa" for kernel in ("flash", "math")},
}


def put_generator(spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel, send_pulse: SendPulse) -> Engine:
    """The best engine for prompts of text on a loaded model. Raises UnsupportedOptionError."""
    if spec.device == "cpu":
        pulse_in_layers(model, send_pulse)
    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
    reason = "model.backend is transformers"
    if spec.model.backend != "transformers":
        packed = _try_packed(spec, checkpoint, model, tokenizer)
        if isinstance(packed, Engine):
            return packed
        reason = str(packed)
        if needs_packed(spec):
            raise UnsupportedOptionError(option=_packed_option(spec), reason=reason)
        if isinstance(packed, WrongAnswers):
            require_announced(checkpoint, reason)
        log.warning("this model runs through transformers' padded generate, not the packed engine: %s", reason)
    if spec.device != "cpu":
        pulse_in_layers(model, send_pulse)
    engine = TransformersGenerate(
        model,
        tokenizer,
        eos_ids=checkpoint.eos_ids,
        pad_id=checkpoint.pad_id,
        token_budget=spec.token_budget or _generation_budget(spec, model),
        about={**about(spec, model), "why_not_packed": reason},
        send_pulse=send_pulse,
    )
    _choose_sharing(engine, spec, checkpoint, tokenizer)
    return engine


def _choose_sharing(
    engine: TransformersGenerate, spec: EngineSpec, checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer
) -> None:
    """Let only such rows share a batch as answer there as they do alone. Raises UnusableModelError."""
    model = engine.model
    rows = rows_to_share(tokenizer, model, checkpoint.context_window - NUM_OUTPUTS, checkpoint.pad_id)
    engine.note(trusted_attention(model, engine.trial, rows, is_named=spec.model.attention.startswith("sdpa")))
    sharing = choose_sharing(model, engine.trial, rows, checkpoint.pad_id)
    if sharing.rows == "any" and (reason := long_rope_reason(model.config, checkpoint.context_window)):
        sharing = Sharing("equal lengths", reason)
    _share(engine, sharing)


def put_vision_generator(
    spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel, send_pulse: SendPulse
) -> Engine:
    """The engine for prompts with images on a loaded model."""
    from parquetry.workers.vision.layout import has_known_layout
    from parquetry.workers.vision.processor import RowProcessor, load_processor
    from parquetry.workers.vision.shared_batches import choose_rows
    from parquetry.workers.vision.vision_generate import VisionGenerate

    if spec.model.kv_dtype != "auto":
        raise UnsupportedOptionError(option=_packed_option(spec), reason=_NO_IMAGES)
    processor = load_processor(checkpoint)
    pulse_in_layers(model, send_pulse)
    rows = RowProcessor(processor, model.dtype, settings().image_max_pixels)
    engine = VisionGenerate(
        model,
        tokenizers.Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json")),
        eos_ids=checkpoint.eos_ids,
        pad_id=checkpoint.pad_id,
        token_budget=spec.token_budget or _generation_budget(spec, model),
        about={**about(spec, model), "why_not_packed": _NO_IMAGES, "pillow": importlib.metadata.version("pillow")},
        send_pulse=send_pulse,
        make=lambda request: rows(request.text, request.images, is_plain=request.is_plain),
        max_model_len=checkpoint.context_window,
    )
    is_known = has_known_layout(rows)
    sharing = choose_rows(engine, rows, checkpoint.pad_id) if is_known else Sharing("none", OWN_LAYOUT)
    _share(engine, sharing)
    return engine


def _share(engine: TransformersGenerate, sharing: Sharing) -> None:
    """Say it where not all rows may share a batch, and keep to it."""
    if sharing.rows != "any":
        log.warning("%s", sharing.warning)
    engine.share(sharing)


def require_announced(checkpoint: Checkpoint, reason: str) -> None:
    """Raise UnusableModelError for a family that was to be packed: whoever planned with that must decide anew."""
    if Forecast.of("generate", checkpoint.model_type).way != "packed":
        return
    remedy = "if its answers may come many times slower, set model.backend to transformers"
    raise UnusableModelError(
        model=checkpoint.id, reason=f"the packed engine does not answer as it does: {reason}; {remedy}"
    )


def _packed_option(spec: EngineSpec) -> str:
    """The option that asks for the packed engine and no other."""
    if spec.model.kv_dtype != "auto":
        return f"model.kv_dtype {spec.model.kv_dtype}"
    return "model.backend packed" if spec.model.backend == "packed" else f"model.attention {spec.model.attention}"


def needs_packed(spec: EngineSpec) -> bool:
    """Whether the job asks for what no other engine has."""
    model = spec.model
    return model.backend == "packed" or model.attention in PACKED_ONLY or model.kv_dtype != "auto"


def _try_packed(
    spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel, tokenizer: tokenizers.Tokenizer
) -> Engine | UnsupportedModel | str:
    """The packed engine on this model, or why it cannot serve it; WrongAnswers where it was tried and found wrong."""
    if spec.model.attention not in _PACKED_ATTENTION:
        return f"it has no attention {spec.model.attention}"
    if is_spread(model):
        return "its weights are spread over several devices"
    if obstacle := packing_obstacle(spec.model):
        return obstacle
    from parquetry.workers.packed.packed_engine import PackedEngine

    try:
        return PackedEngine(model, tokenizer, checkpoint.eos_ids, packed_options(spec, checkpoint))
    except UnsupportedModel as error:
        return error


def packed_options(spec: EngineSpec, checkpoint: Checkpoint) -> PackedOptions:
    """What the job asks of the packed engine."""
    # bitsandbytes' int8 products are not made for torch.compile
    is_compiled = spec.model.compile and spec.model.quantization != "int8"
    options = PackedOptions(
        attention=_PACKED_ATTENTION[spec.model.attention],
        kv_dtype=spec.model.kv_dtype,
        compile=is_compiled,
        max_model_len=checkpoint.context_window,
        memory_limit=memory_limit(spec.model, spec.device),
    )
    return options if spec.token_budget is None else replace(options, token_budget=spec.token_budget)


def _generation_budget(spec: EngineSpec, model: PreTrainedModel) -> int:
    """Tokens a padded batch may come to hold: a fixed number on a CPU, else what fits beside the weights."""
    if model.device.type == "cpu":
        return _CPU_TOKEN_BUDGET
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # an encoder-decoder keeps the prompt's keys and values in its decoder's layers; its config counts the encoder's
    layers = next(filter(None, (getattr(config, name, None) for name in _DECODER_LAYERS)), config.num_hidden_layers)
    token_bytes = 2 * layers * heads * head_dim * model.dtype.itemsize
    free = free_bytes(model.device, 1.0, memory_limit(spec.model, spec.device))
    return max(_LEAST_TOKEN_BUDGET, int(free * _KV_SHARE) // token_bytes)
