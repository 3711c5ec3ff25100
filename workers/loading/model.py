"""The one function that turns an engine spec into a loaded model."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from parquetry.schemas.errors import OtherWeightsError
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import Task
from parquetry.workers.card import Card, cards
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.adapters.adapter_bank import attach
from parquetry.workers.loading.adapters.added_adapter import add, has_four_bit_layers
from parquetry.workers.loading.adapters.merged_adapter import merge
from parquetry.workers.loading.attention_choice import AttentionLimits, use_attention
from parquetry.workers.loading.devices.placement import Placement, device_key
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.pretrained import read_model
from parquetry.workers.loading.quantization.figures import speed_warning
from parquetry.workers.loading.quantization.quantization import RECIPES, quantization_config

log = logging.getLogger(__name__)


def load_model(
    spec: EngineSpec, checkpoint: Checkpoint, auto_class: Any, *, shares: int = 1, **options: Any
) -> PreTrainedModel:
    """The model in eval mode on its devices, through a transformers Auto class, with its adapters.

    With several `shares` this process is one rank of as many, and gets its share by the class's tensor
    parallel plan.

    Safetensors only, and no code from the folder unless the operator allows it. Everything that the files, the
    options and the cards can tell is refused before a weight is read; see `LoadingNeeds.placement` for the errors.
    """
    quieten()
    needs, placement, card = _placed(spec, checkpoint, auto_class, shares)
    warning = None if card.kind == "cpu" else speed_warning(spec.model.quantization, card.name)
    if warning is not None:
        log.warning("%s", warning)
    start = time.perf_counter()
    model = _read(needs, placement, auto_class, card.kind, task=spec.task, options=options)
    precision = needs.precision(card.kind)
    log.info(
        "loaded the weights of %s in %.1f s, as %s: %s",
        spec.model_path, time.perf_counter() - start, precision.dtype, precision.reason,
    )  # fmt: skip
    use_attention(model, spec.model.attention)
    return model.eval().requires_grad_(False)


def switch_model(
    model: PreTrainedModel, spec: EngineSpec, loaded: EngineSpec, checkpoint: Checkpoint, auto_class: Any
) -> None:
    """Give a model that was loaded for `loaded`, a spec of equal `weights_key`, the attention of `spec`.

    Refuses what loading it would refuse. Raises OtherWeightsError when the weights would be of another dtype.
    """
    needs, _, card = _placed(spec, checkpoint, auto_class)
    held, wanted = LoadingNeeds(loaded.model, checkpoint).dtype(card.kind), needs.dtype(card.kind)
    if held != wanted:
        raise OtherWeightsError(reason=f"they are {held}, and attention {spec.model.attention} takes {wanted}")
    use_attention(model, spec.model.attention)


def _placed(
    spec: EngineSpec, checkpoint: Checkpoint, auto_class: Any, shares: int = 1
) -> tuple[LoadingNeeds, Placement, Card]:
    """Everything that can be decided, and refused, without the weights."""
    needs = LoadingNeeds(spec.model, checkpoint)
    devices = cards(spec.device)
    card = devices[device_key(spec.device)]
    config = AutoConfig.from_pretrained(checkpoint.folder, **trust())
    limits = AttentionLimits.of(class_to_load(auto_class, config), card, needs.dtype(card.kind))
    return needs, needs.placement(spec.device, devices, limits, shares=shares), card


def quieten() -> None:
    """Keep progress bars and bitsandbytes' line for every matrix product out of the worker's log."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def trust() -> dict[str, bool]:
    return {"trust_remote_code": settings().trust_remote_code, "local_files_only": True}


def class_to_load(auto_class: Any, config: PreTrainedConfig) -> type | None:
    """The class that will be loaded, None where the checkpoint brings its own or the task has none for it."""
    if type(config) not in auto_class._model_mapping:
        return None
    found = auto_class._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _read(
    needs: LoadingNeeds, placement: Placement, auto_class: Any, kind: str, *, task: Task, options: dict[str, Any]
) -> PreTrainedModel:
    dtype = needs.dtype(kind)
    quantization = quantization_config(needs.model, dtype)
    # peft takes no adapter into torchao's tensors, so they are made after it is there
    is_late = bool(needs.adapter or needs.adapters) and needs.model.quantization in _LATE
    given = {} if quantization is None or is_late else {"quantization_config": quantization}
    model = read_model(
        auto_class,
        needs.checkpoint,
        task=task,
        dtype=getattr(torch, dtype),
        **_whereabouts(placement),
        **trust(),
        **given,
        **options,
    )
    if needs.adapter is not None:
        put = add if has_four_bit_layers(model) else merge
        model = put(model, needs.adapter, name=needs.model.id)
    if needs.adapters:
        model = attach(model, needs.adapters, name=needs.model.id)
    if is_late:
        quantize_late(model, quantization)
    return model


def _whereabouts(placement: Placement) -> dict[str, Any]:
    """The placement as arguments of from_pretrained."""
    if placement.shares == 1:
        return {"device_map": placement.device_map, "max_memory": placement.max_memory}
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=placement.shares)}


_LATE = frozenset(name for name, recipe in RECIPES.items() if recipe.package == "torchao")


def quantize_late(model: PreTrainedModel, config: Any) -> None:
    """Quantize every linear layer but the last in place."""
    from torchao.quantization import quantize_

    head = model.get_output_embeddings()
    quantize_(model, config.quant_type, lambda module, _: isinstance(module, nn.Linear) and module is not head)
    model.config.quantization_config = config


def is_spread(model: PreTrainedModel) -> bool:
    """Whether the weights lie on more than one device."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def dtype_name(model: PreTrainedModel) -> str:
    """bfloat16 and the like."""
    return str(model.dtype).removeprefix("torch.")
