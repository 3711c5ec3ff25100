"""The transformers class that makes of a checkpoint what an encoder's task needs."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.schemas.spec.job import Task
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.cross_encoder import require_own_scores


def labels_tokens(task: Task, checkpoint: Checkpoint) -> bool:
    """Whether every token gets a label, and not every text."""
    return task == "classify" and checkpoint.is_token_classifier


def model_class(task: Task, checkpoint: Checkpoint) -> Any:
    """An Auto class for classify, score or embed. Raises UnsupportedOptionError when none makes it."""
    if task != "embed":
        require_own_scores(checkpoint, task)
        return (
            AutoModelForTokenClassification if labels_tokens(task, checkpoint) else AutoModelForSequenceClassification
        )
    kind = checkpoint.model_type
    # of T5 and its kin, whose other class wants a decoder's input as well
    if str(MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(kind, "")).endswith("EncoderModel"):
        return AutoModelForTextEncoding
    if checkpoint.is_encoder_decoder:
        reason = f"transformers has no class for the encoder of {kind} alone"
        raise UnsupportedOptionError(option="task embed with this model", reason=reason)
    return AutoModel
