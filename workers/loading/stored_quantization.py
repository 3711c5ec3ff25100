"""Checkpoints that were quantized ahead: which method, and what loading them needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import UnsupportedQuantizationError
from workers.loading.card import Card
from workers.loading.packages import require

#: quant_method of config.json -> modules that transformers needs to load it
_NEEDS: dict[str, tuple[str, ...]] = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "compressed-tensors": ("compressed_tensors",),
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "fp8": ("accelerate",),
    "mxfp8": ("accelerate",),
    "mxfp4": ("accelerate",),
    "gguf": ("gguf",),
    "aqlm": ("aqlm",),
    "hqq": ("hqq",),
    "eetq": ("eetq",),
    "fbgemm_fp8": ("fbgemm_gpu",),
    "quark": ("quark",),
    "auto-round": ("auto_round",),
}
#: methods whose kernels come in a package of their own on a card; without it the weights would be expanded
_CARD_NEEDS: dict[str, tuple[str, ...]] = {"fp8": ("kernels",), "mxfp8": ("kernels",), "mxfp4": ("kernels",)}


def stored_method(config: Mapping[str, Any]) -> str | None:
    """quant_method of a checkpoint's config.json, None for plain weights."""
    section = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    if not section:
        return None
    if section.get("load_in_8bit") or section.get("load_in_4bit"):
        return "bitsandbytes"
    return str(section.get("quant_method") or "an unnamed method")


def check_stored(config: Mapping[str, Any], card: Card) -> None:
    """Raise MissingPackageError when the checkpoint's own quantization needs a package that is not here.

    A method that transformers does not know is UnsupportedQuantizationError.
    """
    method = stored_method(config)
    if method is None:
        return
    if method not in _NEEDS:
        known = ", ".join(sorted(_NEEDS))
        reason = f"no loader knows how the checkpoint was quantized; known are {known}"
        raise UnsupportedQuantizationError(quantization=method, reason=reason)
    on_card = _CARD_NEEDS.get(method, ()) if card.kind == "cuda" else ()
    for module in (*_NEEDS[method], *on_card):
        require(module, feature=f"a checkpoint quantized with {method}")
