"""What a model must be for several devices to hold a share each, told from its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from parquetry.schemas.errors import BadInputError, UnsupportedOptionError
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.loading.quantization.stored_quantization import stored_method

#: more devices than this share no model
_MOST = 16


class UnevenSharesError(BadInputError):
    """{model} has {heads} attention heads and {kv_heads} key-value heads, which {size} devices cannot share evenly;
    --gpus-per-engine may be {supported}."""


def check_parallel(model: ModelSpec, config: Mapping[str, Any], size: int) -> None:
    """Refuse what `size` devices cannot share, before a weight is read.

    Raises UnsupportedOptionError for quantizations and adapters, UnevenSharesError for heads.
    """
    stored = stored_method(config)
    if model.quantization != "none":
        raise _unshared(f"model.quantization {model.quantization}", size)
    if stored is not None:
        raise _unshared(f"a checkpoint quantized with {stored}", size)
    if model.adapter is not None or model.adapters:
        raise _unshared("model.adapter" if model.adapter else "model.adapters", size)
    _check_heads(model, config.get("text_config") or config, size)


def _unshared(option: str, size: int) -> UnsupportedOptionError:
    reason = "its weights cannot be shared out; serve it with one GPU an engine, or set model.backend to transformers"
    return UnsupportedOptionError(option=f"{option} on a device group of {size}", reason=reason)


def _check_heads(model: ModelSpec, config: Mapping[str, Any], size: int) -> None:
    """Models whose files do not say are left to the tensor parallel plan of their class."""
    heads = int(config.get("num_attention_heads") or 0)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    if not heads or not (heads % size or kv_heads % size):
        return
    common = math.gcd(heads, kv_heads)
    supported = [str(n) for n in range(1, min(common, _MOST) + 1) if common % n == 0]
    names = " or ".join(filter(None, (", ".join(supported[:-1]), supported[-1])))
    raise UnevenSharesError(model=model.id, heads=heads, kv_heads=kv_heads, size=size, supported=names)
