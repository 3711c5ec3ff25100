"""Whether what a config.json says of its model has the form that readers take for granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parquetry.schemas.errors import UnusableModelError

#: no model comes near; products of a few such numbers are still numbers that are computed at once
_LARGEST = 1 << 40
_MOST_LAYERS = 10_000
_SIZES = (
    *("hidden_size", "dim", "d_model", "n_embd", "intermediate_size", "head_dim", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "n_positions", "num_labels"),
    *("num_local_experts", "num_experts", "n_routed_experts"),
)
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
_OBJECTS = ("text_config", "vision_config", "id2label", "label2id", "quantization_config", "auto_map", "rope_scaling")
_TEXTS = ("model_type",)


def check_config(config: Mapping[str, Any], model: str, *, within: str = "") -> None:
    """Raises UnusableModelError naming the first key that is not as it must be; null is as if it were not there."""
    for keys, is_good, what in _FORMS:
        for key in keys:
            value = config.get(key)
            if value is not None and not is_good(value):
                reason = f"config.json has {within}{key} {repr(value)[:60]}, which is not {what}"
                raise UnusableModelError(model=model, reason=reason)
    if within == "" and config.get("text_config"):
        check_config(config["text_config"], model, within="text_config.")


def indexed_names(index: Mapping[str, Any], model: str) -> list[str]:
    """The weight files that an index names, sorted. Raises UnusableModelError for names that lead out of the folder."""
    files = index.get("weight_map") or {}
    names = list(files.values()) if isinstance(files, dict) else [files]
    bad = next((name for name in names if not _is_file_name(name)), None)
    if bad is not None:
        raise UnusableModelError(
            model=model, reason=f"its index names {repr(bad)[:60]}, which is outside of the folder"
        )
    return sorted(set(names))


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _is_count(value: Any, most: int = _LARGEST) -> bool:
    # some models give a number for each layer
    numbers = value if isinstance(value, list) else [value]
    return all(isinstance(number, int | float) and 0 <= number <= most for number in numbers)


def _are_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(str(key).isdecimal() and len(str(key)) < 12 for key in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FORMS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (_OBJECTS, lambda value: isinstance(value, dict), "an object"),
    (_TEXTS, lambda value: isinstance(value, str), "text"),
    (("architectures",), _are_texts, "a list of names"),
    (("id2label",), _are_labels, "an object of names by number"),
    (_SIZES, _is_count, f"a number from 0 to {_LARGEST}"),
    (_LAYERS, lambda value: _is_count(value, _MOST_LAYERS), f"a number from 0 to {_MOST_LAYERS}"),
)
