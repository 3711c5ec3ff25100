"""The transformers class that makes of a checkpoint what an encoder's task needs."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.score_modules import LogitScore, score_modules


def labels_tokens(task: Task, checkpoint: Checkpoint) -> bool:
    """Whether every token gets a label, and not every text."""
    return task == "classify" and checkpoint.is_token_classifier


def model_class(task: Task, checkpoint: Checkpoint) -> Any:
    """An Auto class for classify, score or embed. Raises UnsupportedOptionError when none makes it.

    Where modules make the scores of a text's vector it is that of an embedder, and where they read logits of two
    tokens that of a classifier, whose one label has the difference of their rows for weights.
    """
    if task != "embed":
        scored = score_modules(checkpoint, task)
        if scored is None:
            labels = labels_tokens(task, checkpoint)
            return AutoModelForTokenClassification if labels else AutoModelForSequenceClassification
        if isinstance(scored, LogitScore):
            _require_head(checkpoint)
            return AutoModelForSequenceClassification
    kind = checkpoint.model_type
    # of T5 and its kin, whose other class wants a decoder's input as well
    if str(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(kind, "")).endswith("EncoderModel"):
        return AutoModelForTextEncoding
    if checkpoint.is_encoder_decoder:
        reason = f"transformers has no class for the encoder of {kind} alone"
        raise UnsupportedOptionError(option="task embed with this model", reason=reason)
    return AutoModel


def _require_head(checkpoint: Checkpoint) -> None:
    kind = checkpoint.model_type
    if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        reason = f"transformers has no class of {kind} that makes one score of a text"
        raise UnsupportedOptionError(option="task score with this model", reason=reason)
