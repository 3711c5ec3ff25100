"""The modules that make a sentence-transformers CrossEncoder's scores, where they are more than one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.dense import DenseLayer, NormLayer
from parquetry.workers.checkpoint.json_file import model_json
from parquetry.workers.checkpoint.pooling import mode_of, modules_of, settings_of, transformer_settings

#: modules that make vectors; without a word of scores they are an embedder's, and say nothing of another head
_OF_EMBEDDERS = frozenset({"Pooling", "Dense", "Normalize"})
#: config keys by which a class changes its logits before they are read
_OF_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass(frozen=True)
class LogitScore:
    """The logit of one token at the end of a text, less that of another."""

    true_id: int
    false_id: int | None


@dataclass(frozen=True)
class PooledScore:
    """Layers over one vector a text, the last of which gives the scores."""

    #: a mode of `parquetry.workers.checkpoint.pooling`
    mode: str
    layers: tuple[DenseLayer | NormLayer, ...]

    @property
    def num_labels(self) -> int:
        return self.layers[-1].out_features


def score_modules(checkpoint: Checkpoint, task: Task) -> LogitScore | PooledScore | None:
    """What modules.json names behind the model; None where the model's own class has a head for `task`.

    Raises UnsupportedOptionError, by their names, for modules that cannot be computed.
    """
    modules = [(kind, checkpoint.folder / path) for kind, path in modules_of(checkpoint.folder)]
    beyond = [kind for kind, _ in modules if kind != "Transformer"]
    is_scorer = settings_of(checkpoint.folder).get("model_type") == "CrossEncoder"
    if not beyond or (not is_scorer and _OF_EMBEDDERS.issuperset(beyond)):
        return None
    if beyond == ["LogitScore"]:
        return _logit_score(checkpoint, modules[-1][1], task)
    if beyond[0] == "Pooling" and beyond[-1] == "Dense" and {"Dense", "LayerNorm"}.issuperset(beyond[1:]):
        layers = tuple((DenseLayer if kind == "Dense" else NormLayer).of(folder) for kind, folder in modules[2:])
        return PooledScore(mode_of(model_json(modules[1][1] / "config.json")), layers)
    reason = f"its scores go through {', '.join(beyond)} (modules.json), which is not built in"
    raise UnsupportedOptionError(option=f"task {task} with this model", reason=reason)


def pooled_score(checkpoint: Checkpoint, task: Task) -> PooledScore | None:
    """The layers over a text's vector, for a CrossEncoder that is made so."""
    found = None if task in ("embed", "generate") else score_modules(checkpoint, task)
    return found if isinstance(found, PooledScore) else None


def logit_score(checkpoint: Checkpoint, task: Task) -> LogitScore | None:
    """The tokens whose logits make the score, for a CrossEncoder that is made so."""
    found = None if task in ("embed", "generate") else score_modules(checkpoint, task)
    return found if isinstance(found, LogitScore) else None


def _logit_score(checkpoint: Checkpoint, folder: Path, task: Task) -> LogitScore:
    said = model_json(folder / "config.json")
    reason = _logit_reason(checkpoint, said, task)
    if reason is not None:
        raise UnsupportedOptionError(option=f"task {task} with this model", reason=reason)
    return LogitScore(int(said["true_token_id"]), said.get("false_token_id"))


def _logit_reason(checkpoint: Checkpoint, said: dict[str, Any], task: Task) -> str | None:
    if task != "score":
        return "its LogitScore gives one score of a pair; use task score"
    if said.get("module_input_name", "causal_logits") != "causal_logits" or "true_token_id" not in said:
        return "its LogitScore reads something else than logits, which is not built in"
    changed = next((key for key in _OF_LOGITS if checkpoint.text_config.get(key) not in (None, 1, 1.0)), None)
    return changed and f"its LogitScore reads logits that {changed} of config.json changes, which is not built in"


def default_prompt(checkpoint: Checkpoint) -> str:
    """What a CrossEncoder puts before every pair: a system message, or the beginning of the first text."""
    said = settings_of(checkpoint.folder)
    return str((said.get("prompts") or {}).get(said.get("default_prompt_name")) or "")


def renders_pairs(checkpoint: Checkpoint) -> bool:
    """Whether a pair goes through the chat template, as messages of the roles query and document."""
    return "message" in (transformer_settings(checkpoint.folder).get("modality_config") or {})


def template_variables(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the folder gives its chat template beside the messages."""
    given = (transformer_settings(checkpoint.folder).get("processing_kwargs") or {}).get("chat_template") or {}
    return {"add_generation_prompt": False, **given}
