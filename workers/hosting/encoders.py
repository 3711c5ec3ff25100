"""The engine of classify, score and embed on a loaded model: packed on CUDA where the model allows it, else padded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from parquetry.schemas.errors import UnsupportedOptionError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.cross_encoder import score_activation
from parquetry.workers.checkpoint.score_modules import PooledScore, pooled_score
from parquetry.workers.checks.sharing import Sharing, choose_sharing, rows_to_share
from parquetry.workers.checks.stock_attention import trusted_attention
from parquetry.workers.encoding.batching.pad_id import own_pad_id
from parquetry.workers.encoding.model_class import labels_tokens
from parquetry.workers.encoding.outputs.label_scores import choose_activation, label_scores, token_labels
from parquetry.workers.encoding.outputs.projection import Projection
from parquetry.workers.encoding.outputs.token_pooling import pool_padded
from parquetry.workers.encoding.outputs.vectors import after_pooling, pooling_of
from parquetry.workers.encoding.positions import Positions
from parquetry.workers.encoding.selection import packed_encoder
from parquetry.workers.encoding.torch_padded import Head, TorchEncoder
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.loaded_model import about, pulse_in_layers
from parquetry.workers.loading.quantization.quantization import packing_obstacle
from parquetry.workers.padded.padding import Side
from parquetry.workers.process.pulse import SendPulse

log = logging.getLogger(__name__)
_CPU_TOKEN_BUDGET = 4096
_CUDA_TOKEN_BUDGET = 32768


def put_encoder(spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel, send_pulse: SendPulse) -> Engine:
    """The best engine for vectors or labels on a loaded model. Raises UnsupportedOptionError."""
    head, facts = _head(spec, checkpoint, model)
    if spec.device == "cpu":
        pulse_in_layers(model, send_pulse)
    # on a CPU the two are about as fast, and the padded one needs nothing of the model
    reason = "model.backend is transformers" if spec.model.backend == "transformers" else "the device is a CPU"
    if spec.model.backend == "packed" or (spec.model.backend == "auto" and spec.device != "cpu"):
        packed = packing_obstacle(spec.model) or packed_encoder(spec, checkpoint, model, about(spec, model))
        if isinstance(packed, Engine):
            return packed
        reason = packed
        if spec.model.backend == "packed":
            raise UnsupportedOptionError(option="model.backend packed", reason=reason)
        log.warning("this model runs in padded batches, sorted by length: %s", reason)
    if spec.device != "cpu":
        pulse_in_layers(model, send_pulse)
    positions = Positions.of(model)
    budget = _CPU_TOKEN_BUDGET if spec.device == "cpu" else _CUDA_TOKEN_BUDGET
    engine = TorchEncoder(
        model,
        head,
        pad_id=own_pad_id(model),
        max_tokens=min(checkpoint.context_window, positions.max_tokens or checkpoint.context_window),
        token_budget=spec.token_budget or budget,
        about={**about(spec, model), **facts, "why_not_packed": reason},
    )
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
    rows = rows_to_share(tokenizer, model, engine.limits.max_tokens, own_pad_id(model))
    engine.note(trusted_attention(model, engine.trial, rows, is_named=spec.model.attention.startswith("sdpa")))
    choose_padding(engine, model, rows)
    return engine


def choose_padding(engine: TorchEncoder, model: PreTrainedModel, rows: Sequence[np.ndarray]) -> None:
    """Pad on the side on which rows answer as alone; where there is none, let only such rows share a batch as do.

    Raises UnusableModelError.
    """
    pad_id = own_pad_id(model)
    first: Sharing | None = None
    sides: tuple[Side, ...] = ("right", "left")
    for engine.side in sides:
        sharing = choose_sharing(model, engine.trial, rows, pad_id)
        if sharing.rows == "any":
            return
        first = first or sharing
    assert first is not None
    engine.side = "right"
    log.warning("%s", first.warning)
    engine.share(first)


def _head(spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel) -> tuple[Head, dict[str, str]]:
    """What turns a padded batch's outputs into answers, and what provenance says of it."""
    if spec.task == "embed":
        return _embedding_head(spec, checkpoint, model)
    if scored := pooled_score(checkpoint, spec.task):
        return _pooled_head(spec, checkpoint, model, scored)
    return _token_head(model) if labels_tokens(spec.task, checkpoint) else _classification_head(spec, checkpoint, model)


def _embedding_head(spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel) -> tuple[Head, dict[str, str]]:
    mode = pooling_of(spec, checkpoint)
    options = after_pooling(spec, checkpoint)
    projection = Projection(**options, normalize=spec.normalize).to(model.device)

    def head(output: ModelOutput, mask: Tensor) -> Tensor:
        return projection(pool_padded(output.last_hidden_state.float(), mask, mode))

    return head, {
        "pooling": mode,
        "embedding_dim": str(projection.width(model.config.get_text_config().hidden_size, mode)),
    }


def _pooled_head(
    spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel, scored: PooledScore
) -> tuple[Head, dict[str, str]]:
    named = score_activation(checkpoint) if spec.task == "score" else None
    activation = choose_activation(SimpleNamespace(num_labels=scored.num_labels), spec.task, named)
    projection = Projection(dense=scored.layers, normalize=False).to(model.device)

    def head(output: ModelOutput, mask: Tensor) -> Tensor:
        return label_scores(projection(pool_padded(output.last_hidden_state.float(), mask, scored.mode)), activation)

    return head, {"activation": activation, "num_labels": str(scored.num_labels), "pooling": scored.mode}


def _classification_head(
    spec: EngineSpec, checkpoint: Checkpoint, model: PreTrainedModel
) -> tuple[Head, dict[str, str]]:
    named = score_activation(checkpoint) if spec.task == "score" else None
    activation = choose_activation(model.config, spec.task, named)

    def head(output: ModelOutput, mask: Tensor) -> Tensor:
        return label_scores(output.logits, activation)

    return head, {"activation": activation, "num_labels": str(model.config.num_labels)}


def _token_head(model: PreTrainedModel) -> tuple[Head, dict[str, str]]:
    def head(output: ModelOutput, mask: Tensor) -> Tensor:
        return token_labels(output.logits)

    return head, {"activation": "softmax", "num_labels": str(model.config.num_labels)}
