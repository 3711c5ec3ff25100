"""One LoRA adapter merged into the loaded weights for good."""

from __future__ import annotations

import warnings
from typing import Any

from parquetry.schemas.errors import AdapterMismatchError
from parquetry.workers.checkpoint.adapter import Adapter
from parquetry.workers.packages import require


def merge(model: Any, adapter: Adapter, *, name: str) -> Any:
    """Add the adapter to the weights of `model` for good; returns the plain model. Raises AdapterMismatchError."""
    require("peft", feature="model.adapter")
    from peft import PeftModel

    with warnings.catch_warnings():
        # Merging into quantized weights rounds, which the job asked for; and peft uses names transformers has renamed.
        warnings.filterwarnings("ignore", message="Merge lora module to")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        try:
            merged = PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
        except (ValueError, RuntimeError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise AdapterMismatchError(adapter=str(adapter.folder), model=name, reason=reason) from None
    return merged.eval()
