"""How a sentence-transformers folder turns token vectors into one vector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UnsupportedOptionError

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {"cls": "cls", "mean": "mean", "max": "max", "last": "last", "lasttoken": "last"}
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True)
class Pooling:
    """Read from modules.json and the Pooling module's config.json."""

    #: cls, mean, max or last
    mode: str
    #: whether the folder ends in a Normalize module
    normalize: bool
    #: text put before every input, empty for none
    prompt: str = ""

    @classmethod
    def of(cls, folder: Path) -> Pooling | None:
        """None when the folder is not a sentence-transformers one. UnsupportedOptionError for modules we lack."""
        modules = _read(folder / "modules.json")
        if not isinstance(modules, list):
            return None
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
        unknown = sorted(set(kinds) - _KNOWN_MODULES)
        if unknown:
            reason = f"the model pools through {', '.join(unknown)}, which is not built in"
            raise UnsupportedOptionError(option="embed.pooling auto", reason=f"{reason}; name a pooling in the spec")
        pooling = next((m for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), {"path": ""})
        mode = _mode(_read(folder / str(pooling["path"]) / "config.json") if pooling["path"] else {})
        return cls(mode, "Normalize" in kinds, _default_prompt(folder))


def _mode(config: Any) -> str:
    named = config.get("pooling_mode")
    if isinstance(named, str) and named in _NAMES:
        return _NAMES[named]
    asked = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    chosen = [_MODES.get(key, key) for key in asked]
    if len(chosen) > 1 or named is not None or set(asked) - set(_MODES):
        what = " and ".join(chosen) or named
        reason = f"the model pools by {what}, which is not built in; name a pooling in the spec"
        raise UnsupportedOptionError(option="embed.pooling auto", reason=reason)
    return chosen[0] if chosen else "mean"


def _default_prompt(folder: Path) -> str:
    config = _read(folder / "config_sentence_transformers.json")
    prompts = config.get("prompts") or {}
    return str(prompts.get(config.get("default_prompt_name"), "") or "")


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
