"""What every engine on a loaded model needs: pulses from within its layers, and its provenance."""

from __future__ import annotations

import importlib.metadata

import torch
from torch import nn
from transformers import PreTrainedModel

from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.attention_choice import attention_name
from parquetry.workers.loading.model import dtype_name
from parquetry.workers.process.pulse import SendPulse


def pulse_in_layers(model: PreTrainedModel, send_pulse: SendPulse) -> None:
    """Send a pulse before every layer: on a slow device one forward pass may outlast the stall limit."""
    hooks = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList):
            for layer in module:
                hooks.append(layer.register_forward_pre_hook(lambda _module, _args: send_pulse()))
    model.pulse_hooks = hooks


def remove_pulses(model: PreTrainedModel) -> None:
    """Take the hooks of `pulse_in_layers` off again, for the next engine on the model."""
    for hook in model.__dict__.pop("pulse_hooks", ()):
        hook.remove()


def about(spec: EngineSpec, model: PreTrainedModel) -> dict[str, str]:
    """Provenance that the spec and the loaded model tell."""
    return {
        "attention": attention_name(model, spec.model.attention),
        "dtype": dtype_name(model),
        "quantization": spec.model.quantization,
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
