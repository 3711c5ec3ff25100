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
            make_room(model, adapter)
            merged = PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
        except (ValueError, RuntimeError, KeyError) as error:
            reason = telling_line(error)
            raise AdapterMismatchError(adapter=str(adapter.folder), model=name, reason=reason) from None
    return merged.eval()


def make_room(model: Any, adapter: Adapter) -> None:
    """Give the model's tables of words as many rows as the adapter brings, which was trained on a larger vocabulary."""
    words = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is words)
    brought = adapter.table(name)
    if brought is not None and brought.shape[0] != words.weight.shape[0]:
        # the new rows are the adapter's own, so it does not matter how they begin
        model.resize_token_embeddings(brought.shape[0], mean_resizing=False)


def telling_line(error: Exception) -> str:
    """The line of peft's error that names the layer and the sizes, else its first."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return next((line for line in lines if "size mismatch" in line), lines[0])[:300]
