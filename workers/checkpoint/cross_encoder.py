"""What a sentence-transformers CrossEncoder makes of its logits, as its folder says."""

from __future__ import annotations

from typing import Literal

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.pooling import module_kinds, settings_of

ScoreActivation = Literal["none", "sigmoid", "tanh"]
#: classes of torch.nn that are built in
_ACTIVATIONS: dict[str, ScoreActivation] = {"Identity": "none", "Sigmoid": "sigmoid", "Tanh": "tanh"}
#: the key in config.json before version 4
_OLD_KEY = "sbert_ce_default_activation_function"
#: modules that make vectors
_OF_EMBEDDERS = frozenset({"Pooling", "Dense", "Normalize"})


def score_activation(checkpoint: Checkpoint) -> ScoreActivation | None:
    """What pair scores go through, by config_sentence_transformers.json and config.json; None where neither says.

    Raises UnsupportedOptionError for one that is not built in.
    """
    section = checkpoint.config.get("sentence_transformers") or {}
    settings = settings_of(checkpoint.folder)
    name = settings.get("activation_fn") or section.get("activation_fn") or checkpoint.config.get(_OLD_KEY)
    if name is None:
        return None
    short = str(name).rpartition(".")[2]
    if short not in _ACTIVATIONS:
        reason = f"its scores go through {name}; those built in are {', '.join(_ACTIVATIONS)} of torch.nn"
        raise UnsupportedOptionError(option="task score with this model", reason=reason)
    return _ACTIVATIONS[short]


def require_own_scores(checkpoint: Checkpoint, task: Task) -> None:
    """Raise UnsupportedOptionError when modules beside the model make its scores, such as a LogitScore.

    The modules of an embedder say nothing of scores; whether the model has a head of its own, its weights tell.
    """
    beyond = [kind for kind in module_kinds(checkpoint.folder) if kind != "Transformer"]
    is_embedder = settings_of(checkpoint.folder).get("model_type") != "CrossEncoder" and _OF_EMBEDDERS.issuperset(
        beyond
    )
    if beyond and not is_embedder:
        reason = f"its scores go through {', '.join(beyond)} (modules.json), which is not built in"
        raise UnsupportedOptionError(option=f"task {task} with this model", reason=reason)
