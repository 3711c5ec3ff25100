"""LoRA folders for tiny models: adapters of different rank and target that change what the model writes."""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel

#: name -> rank and what it changes
SHAPES = {
    "attention": (4, ["q_proj", "v_proj"]),
    "everything": (2, "all-linear"),
    "mlp": (9, ["gate_proj", "down_proj"]),
}


def write_adapter(folder: Path, model: PreTrainedModel, name: str, **options: object) -> Path:
    """The adapter `name` of SHAPES for `model`, which stays as it is."""
    rank, targets = SHAPES[name]
    torch.manual_seed(len(name))
    config = peft.LoraConfig(**{"r": rank, "lora_alpha": 4 * rank, "target_modules": targets, **options})
    with warnings.catch_warnings():
        # peft uses names that transformers has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
        wrapped = peft.get_peft_model(model, config)
        for key, value in wrapped.state_dict().items():
            if ".lora_" in key:
                value.normal_(0, 0.2)
        wrapped.save_pretrained(folder)
        wrapped.unload()
    return folder
