"""How a sentence-transformers folder turns token vectors into one vector."""

from __future__ import annotations

import json
from collections.abc import Iterable
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

    #: the Pooling module's config.json
    config: dict[str, Any]
    #: whether the folder ends in a Normalize module
    normalize: bool
    #: text put before every input, empty for none
    prompt: str = ""

    @property
    def mode(self) -> str:
        """cls, mean, max or last. UnsupportedOptionError for others; a spec may name one of these instead."""
        return _mode(self.config)

    @classmethod
    def of(cls, folder: Path) -> Pooling | None:
        """None when the folder is not a sentence-transformers one.

        UnsupportedOptionError for whatever else it does to a vector: leaving that out would give other numbers.
        """
        modules = _read(folder / "modules.json")
        if not isinstance(modules, list):
            return None
        paths = {str(module.get("type", "")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}
        said = _read(folder / "config_sentence_transformers.json")
        config = _read(folder / paths["Pooling"] / "config.json") if paths.get("Pooling") else {}
        prompt = str((said.get("prompts") or {}).get(said.get("default_prompt_name"), "") or "")
        reason = _unsupported(paths, said, leaves_out=prompt if config.get("include_prompt") is False else "")
        if reason is not None:
            raise UnsupportedOptionError(option="task embed with this model", reason=reason)
        return cls(config, "Normalize" in paths, prompt)


def _unsupported(kinds: Iterable[str], said: dict[str, Any], *, leaves_out: str) -> str | None:
    """Why vectors made by pooling alone would not be the model's own."""
    unknown = sorted(set(kinds) - _KNOWN_MODULES)
    if unknown:
        return f"its vectors go through {', '.join(unknown)} (modules.json), which is not built in"
    if said.get("truncate_dim") is not None:
        where = "config_sentence_transformers.json"
        remedy = "remove the key from a copy of the model, and cut the whole vectors afterwards"
        return f"it cuts its vectors to {said['truncate_dim']} numbers (truncate_dim in {where}); {remedy}"
    if leaves_out:
        return f"it leaves its own prompt {leaves_out!r} out of the pooling (include_prompt), which is not built in"
    return None


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


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
