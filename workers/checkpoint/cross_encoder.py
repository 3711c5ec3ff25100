"""What a sentence-transformers CrossEncoder makes of its logits, as its folder says."""

from __future__ import annotations

from typing import Literal

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.pooling import settings_of

ScoreActivation = Literal["none", "sigmoid", "tanh"]
#: classes of torch.nn that are built in
_ACTIVATIONS: dict[str, ScoreActivation] = {"Identity": "none", "Sigmoid": "sigmoid", "Tanh": "tanh"}
#: the key in config.json before version 4
_OLD_KEY = "sbert_ce_default_activation_function"


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
