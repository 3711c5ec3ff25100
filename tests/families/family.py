"""A family of models and what is asked of it; and its folder: random weights under a tokenizer of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
    PreTrainedConfig,
)
from transformers.models.auto import modeling_auto as known

from tests.families.shrinking import small_config
from tests.models import byte_tokenizer

#: what a family can be asked for, in the order of the page
TASKS = ("generate", "classify", "label tokens", "embed")
NUM_LABELS = 3
MAX_PARAMETERS = 20_000_000
#: parameters whose values are rates of decay, which random ones would let explode
_RATES = ("A_log", "dt_", "time_decay", "recurrent_param")


@dataclass(frozen=True)
class Family:
    """A `model_type` of transformers, and a task."""

    kind: str
    task: str

    @property
    def auto_class(self) -> Any:
        """The transformers class that makes and loads it."""
        if self.task == "embed":
            # of T5 and its kin, whose other class wants a decoder's input as well
            name = str(known.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(self.kind, ""))
            return AutoModelForTextEncoding if name.endswith("EncoderModel") else AutoModel
        classes = (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification)
        return dict(zip(TASKS, classes, strict=False))[self.task]

    def make(self, folder: Path) -> None:
        """Write a tiny model with random weights. Raises whatever the family's classes raise."""
        is_causal = self.task == "generate"
        labels = {} if self.task in ("generate", "embed") else {"num_labels": NUM_LABELS}
        config = small_config(self.kind, causal=is_causal, **labels)
        require_small(self.auto_class, config)
        torch.manual_seed(sum(map(ord, self.kind)))
        model = self.auto_class.from_config(config, dtype=torch.float32)
        sharpen(model)
        model.eval().save_pretrained(folder)
        byte_tokenizer(chat=False, around=() if is_causal else ("<s>", "<|im_start|>")).save_pretrained(folder)


def families(task: str) -> list[Family]:
    """Every family that transformers has for this task, in alphabetical order."""
    heads = (known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, known.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES)
    encoders = (known.MODEL_FOR_MASKED_LM_MAPPING_NAMES, known.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES, heads[0])
    mappings = {
        "generate": (known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,),
        "classify": heads[:1],
        "label tokens": heads[1:],
        "embed": encoders,
    }
    return [Family(kind, task) for kind in sorted({kind for mapping in mappings[task] for kind in mapping})]


def require_small(auto_class: Any, config: PreTrainedConfig) -> None:
    """Raise ValueError for a family whose config keeps parts of the size they have in use."""
    with torch.device("meta"):
        num_parameters = auto_class.from_config(config, dtype=torch.float32).num_parameters()
    if num_parameters > MAX_PARAMETERS:
        raise ValueError(f"the small config still makes a model of {num_parameters / 1e6:.0f} million parameters")


def sharpen(model: nn.Module) -> None:
    """Weights so large that the likeliest token is rarely a matter of rounding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not any(rate in name for rate in _RATES):
                nn.init.normal_(parameter, std=1.2 * parameter.shape[-1] ** -0.5)
