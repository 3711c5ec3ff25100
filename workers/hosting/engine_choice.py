"""Chooses and loads the engine of a spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.encoding.model_class import model_class as encoder_class
from parquetry.workers.encoding.onnx.optimum import load_optimum
from parquetry.workers.encoding.selection import onnx_encoder
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.encoders import put_encoder
from parquetry.workers.hosting.generators import put_generator, put_vision_generator
from parquetry.workers.hosting.loaded_model import remove_pulses
from parquetry.workers.loading.model import load_model
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.four_bit_quantizer import own_layers_of
from parquetry.workers.packages import require
from parquetry.workers.process.pulse import SendPulse
from parquetry.workers.vllm.loading import load_vllm


def load_engine(spec: EngineSpec, *, send_pulse: SendPulse = lambda: None) -> Engine:
    """Load the model and put the best engine on top. `send_pulse` is called as a sign of life from inside long work.

    Raises UnsupportedOptionError, MissingPackageError, ModelNotFoundError and the like, each with what to change.
    """
    if spec.model.backend == "optimum":
        return load_optimum(spec)
    if spec.model.backend == "vllm":
        return load_vllm(spec)
    if spec.model.backend == "onnxruntime" and spec.task == "generate":
        reason = "it serves classify, score and embed; set model.backend to auto or packed"
        raise UnsupportedOptionError(option="model.backend onnxruntime for task generate", reason=reason)
    checkpoint = Checkpoint.resolve(spec.model)
    if spec.model.backend == "onnxruntime":
        LoadingNeeds(spec.model, checkpoint).check()
        return onnx_encoder(spec, checkpoint, _options_about(spec))
    return put_engine(load_model(spec, checkpoint, auto_class(spec, checkpoint)), spec, checkpoint, send_pulse)


def auto_class(spec: EngineSpec, checkpoint: Checkpoint) -> Any:
    """The transformers class that loads the model with the head that the task needs. Raises MissingPackageError,
    and UnsupportedOptionError for an encoder-decoder that has no class for its encoder.
    """
    if spec.images:
        require("PIL", feature="prompt.image")
        return AutoModelForImageTextToText
    if spec.task == "generate":
        return _generator_class(checkpoint)
    return encoder_class(spec.task, checkpoint)


def put_engine(model: PreTrainedModel, spec: EngineSpec, checkpoint: Checkpoint, send_pulse: SendPulse) -> Engine:
    """The best engine on a loaded model that nothing else uses. Raises UnsupportedOptionError."""
    remove_pulses(model)
    engine = _put(spec)(spec, checkpoint, model, send_pulse)
    precision = LoadingNeeds(spec.model, checkpoint).precision(model.device.type)
    stored = own_layers_of(model)
    notes = {"why_dtype": precision.reason, **({} if stored is None else {"quantization": stored})}
    engine.provenance_notes = {**engine.provenance_notes, **notes}
    return engine


def _put(spec: EngineSpec) -> Callable[[EngineSpec, Checkpoint, PreTrainedModel, SendPulse], Engine]:
    if spec.images:
        return put_vision_generator
    return put_generator if spec.task == "generate" else put_encoder


def _generator_class(checkpoint: Checkpoint) -> Any:
    if checkpoint.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    # the few vision models that transformers also knows as text models keep that class
    is_text = checkpoint.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return AutoModelForImageTextToText if checkpoint.is_vision and not is_text else AutoModelForCausalLM


def _options_about(spec: EngineSpec) -> dict[str, str]:
    """What provenance says of an engine that holds no torch model."""
    return {"attention": "onnxruntime", "quantization": spec.model.quantization, "device": spec.device}
