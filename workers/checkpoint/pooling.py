"""How a sentence-transformers folder turns token vectors into one vector: pooling, dense layers, prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parquetry.schemas.errors import InvalidValueError, UnsupportedOptionError, suggestion
from parquetry.workers.checkpoint.dense import DenseLayer
from parquetry.workers.checkpoint.json_file import model_json

#: names in a Pooling module's config.json to ours; several are concatenated, flags in this order
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES = {
    **{mode: mode for mode in _FLAGS.values()},
    "lasttoken": "last",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}
#: what there may be, in this order; Dropout does nothing to a finished model
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_IDLE = "Dropout"
#: where the limits of the Transformer module lie; the name went with the family once
_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_SETTINGS = "config_sentence_transformers.json"


def modes_of(mode: str) -> list[str]:
    """The poolings that a mode such as `cls+mean` concatenates."""
    return mode.split("+")


@dataclass(frozen=True)
class Pooling:
    """Read from modules.json and what it names."""

    #: the Pooling module's config.json
    config: dict[str, Any]
    #: whether the folder ends in a Normalize module
    normalize: bool
    #: layers that a pooled vector goes through, in order
    dense: tuple[DenseLayer, ...] = ()
    #: texts put before every input, by name
    prompts: dict[str, str] = field(default_factory=dict)
    #: name of the prompt that a job gets unless it names another
    default_prompt: str | None = None
    #: numbers of a vector that are kept unless a job says how many; None for all
    truncate_dim: int | None = None

    @property
    def mode(self) -> str:
        """cls, max, mean, mean_sqrt_len, weighted_mean or last, or several joined by `+`.

        UnsupportedOptionError for others; a spec may name a pooling instead.
        """
        return mode_of(self.config)

    def prompt(self, name: str | None) -> str:
        """The text of a prompt: the default one for None, none for "". Raises InvalidValueError for unknown names."""
        name = self.default_prompt if name is None else name
        if not name:
            return ""
        if name not in self.prompts:
            known = f"the model's prompts are {', '.join(self.prompts)}" if self.prompts else "the model has no prompts"
            reason = f"{known}{suggestion(name, self.prompts)}"
            raise InvalidValueError(key="embed.prompt", value=repr(name), reason=reason)
        text = self.prompts[name]
        if text and self.config.get("include_prompt") is False:
            reason = f"the model leaves its prompt {text!r} out of the pooling (include_prompt), which is not built in"
            raise UnsupportedOptionError(option=f"embed.prompt {name!r}", reason=f"{reason}; set embed.prompt to ''")
        return text

    def width(self, hidden_size: int, mode: str) -> int:
        """Numbers of a whole vector. Raises UnsupportedOptionError when the dense layers take another width."""
        width = hidden_size * len(modes_of(mode))
        for layer in self.dense:
            if layer.in_features != width:
                reason = f"pooling {mode} gives {width} numbers, but its {layer.name} takes {layer.in_features}"
                raise UnsupportedOptionError(option="task embed with this model", reason=reason)
            width = layer.out_features
        return width

    @classmethod
    def of(cls, folder: Path) -> Pooling | None:
        """None when the folder is not a sentence-transformers one.

        UnsupportedOptionError for whatever else it does to a vector: leaving that out would give other numbers.
        """
        modules = modules_of(folder)
        if not modules:
            return None
        _require_known(modules)
        pooling = next((path for kind, path in modules if kind == "Pooling"), None)
        said = settings_of(folder)
        return cls(
            config=_read(folder / pooling / "config.json") if pooling else {},
            normalize=modules[-1][0] == "Normalize",
            dense=tuple(DenseLayer.of(folder / path) for kind, path in modules if kind == "Dense"),
            prompts={str(name): str(text) for name, text in (said.get("prompts") or {}).items()},
            default_prompt=said.get("default_prompt_name"),
            truncate_dim=said.get("truncate_dim"),
        )


def dense_files(folder: Path) -> list[Path]:
    """Weights of the layers behind the model that modules.json names."""
    kinds = ("Dense", "LayerNorm")
    files = [folder / path / "model.safetensors" for kind, path in modules_of(folder) if kind in kinds]
    return [file for file in files if file.is_file()]


def transformer_settings(folder: Path) -> dict[str, Any]:
    """max_seq_length and do_lower_case as the Transformer module's settings file has them; empty without one."""
    files = (folder / f"sentence_{family}_config.json" for family in _FAMILIES)
    found: Any = next((_read(file) for file in files if file.is_file()), None)
    return found if isinstance(found, dict) else {}


def transformer_folder(folder: Path) -> str | None:
    """The folder within a sentence-transformers one that holds the model, where that is not beside modules.json."""
    found = next((path for kind, path in modules_of(folder) if kind == "Transformer"), "")
    return found if found and (folder / found / "config.json").is_file() else None


def settings_of(folder: Path) -> dict[str, Any]:
    """What a sentence-transformers folder says of itself in its settings file."""
    found: Any = _read(folder / _SETTINGS)
    return found if isinstance(found, dict) else {}


def modules_of(folder: Path) -> list[tuple[str, str]]:
    """Kind and path of each module that does something."""
    listed = _read(folder / "modules.json")
    modules = listed if isinstance(listed, list) else []
    pairs = [(str(m.get("type", "")).rpartition(".")[2], str(m.get("path", ""))) for m in modules]
    return [(kind, path) for kind, path in pairs if kind != _IDLE]


def _require_known(modules: Sequence[tuple[str, str]]) -> None:
    kinds = [kind for kind, _ in modules]
    unknown = sorted(set(kinds) - set(_ORDER))
    reason = None
    if unknown:
        reason = f"its vectors go through {', '.join(unknown)} (modules.json), which is not built in"
    elif sorted(kinds, key=_ORDER.index) != kinds or any(kinds.count(kind) > 1 for kind in _ORDER if kind != "Dense"):
        reason = f"its modules run in the order {', '.join(kinds)}; what is built in is {', '.join(_ORDER)}"
    if reason is not None:
        raise UnsupportedOptionError(option="task embed with this model", reason=reason)


def mode_of(config: dict[str, Any]) -> str:
    """The mode that a Pooling module's config.json names. Raises UnsupportedOptionError for others than ours."""
    named = config.get("pooling_mode")
    if named is None:
        # a mode that is none of ours must be refused, not left out
        named = [key for key in {**_FLAGS, **config} if key.startswith("pooling_mode_") and config.get(key)] or "mean"
    asked = [named] if isinstance(named, str) else list(named)
    known = {**_FLAGS, **_NAMES}
    if not all(name in known for name in asked):
        what = " and ".join(map(str, asked))
        reason = f"the model pools by {what}, which is not built in; name a pooling in the spec"
        raise UnsupportedOptionError(option="embed.pooling auto", reason=reason)
    return "+".join(known[name] for name in asked)


def _read(file: Path) -> Any:
    return model_json(file, list if file.name == "modules.json" else dict)
