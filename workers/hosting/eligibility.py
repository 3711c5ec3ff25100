"""Whether a job's model is computed by all devices of a device group together, or as on one device."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.attention_choice import PADDED_ONLY
from parquetry.workers.loading.model import class_to_load, trust
from parquetry.workers.packed.checks.attention_layers import foreign_layers
from parquetry.workers.parallel.shares import KNOWN


def why_not_parallel(spec: EngineSpec, checkpoint: Checkpoint) -> str | None:
    """Why the engine of this spec is not tensor parallel, None when it is. Reads no weights."""
    if spec.task != "generate":
        return f"task {spec.task} has engines for one device only"
    if spec.images:
        return "its prompts hold images, which the packed engine does not take"
    if spec.model.backend not in ("auto", "packed"):
        return f"model.backend is {spec.model.backend}, and only the packed engine has it"
    if spec.model.attention in PADDED_ONLY:
        return f"the packed engine has no attention {spec.model.attention}"
    return _why_not_class(AutoConfig.from_pretrained(checkpoint.folder, **trust()))


def _why_not_class(config: PreTrainedConfig) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model"
    found: Any = class_to_load(AutoModelForCausalLM, config)
    tp_plan = getattr(config.get_text_config(), "base_model_tp_plan", None)
    if found is None or not tp_plan:
        return f"transformers has no tensor parallel plan for {getattr(found, '__name__', config.model_type)}"
    foreign = set(tp_plan.values()) - KNOWN
    if foreign:
        return f"its tensor parallel plan has the style {', '.join(sorted(foreign))}"
    return foreign_layers(config.get_text_config())
