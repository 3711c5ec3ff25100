"""What the torch model makes of an export's known rows, and how far the precision of the file alone moves that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.workers.checks.eight_bits import in_eight_bits
from parquetry.workers.checks.prompts import check_prompts
from parquetry.workers.checks.rounding import rounded_otherwise
from parquetry.workers.encoding.batching.pad_id import own_pad_id
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.shared_batches import ROUNDING
from parquetry.workers.encoding.outputs.token_pooling import pool_padded
from parquetry.workers.request import EncodeRequest

DTYPES = {"float32": torch.float32, "float16": torch.float16}
#: tokens of the rows of the trace and of the comparison
_LENS = (40, 17, 7)
#: how often the model is rounded otherwise to see what rounding moves
_NUM_ROUNDINGS = 3


def known_rows(model: PreTrainedModel, spec: ExportSpec, tokenizer: Tokenizer, max_tokens: int | None) -> KnownRows:
    """A few rows of text, what the model itself makes of each alone in float32, and what the file's precision costs."""
    pad_id = own_pad_id(model)
    lens = [min(size, max_tokens or size) for size in _LENS]
    rows = check_prompts(tokenizer, model.config.vocab_size, lens)
    rows = [np.where(row == pad_id, pad_id + 1 if pad_id is not None else row, row).astype(np.int32) for row in rows]
    requests = [EncodeRequest(id=index, token_ids=row) for index, row in enumerate(rows)]

    def values() -> np.ndarray:
        return np.concatenate([_value(model, spec, torch.from_numpy(row).long()[None]) for row in rows])

    with torch.inference_mode(False), torch.no_grad():
        want = values()
        return KnownRows(requests, want, _noise(model, spec, values, want))


def _noise(model: PreTrainedModel, spec: ExportSpec, values: Callable[[], np.ndarray], want: np.ndarray) -> np.ndarray:
    """(num_values,) how far the precision of the file moves each; no less than what it moves all of them by."""
    if spec.quantization == "int8":
        with in_eight_bits(model, spec.weight_bits):
            moved = np.linalg.norm(values() - want, axis=1)
    else:
        moved = np.zeros(len(want))
        for seed in range(_NUM_ROUNDINGS):
            with rounded_otherwise(model, seed, torch.finfo(DTYPES[spec.dtype]).eps):
                moved = np.maximum(moved, np.linalg.norm(values() - want, axis=1))
    # a single number may not happen to move, and some rows move further than a few roundings show
    precision = "int8" if spec.quantization == "int8" else spec.dtype
    least = ROUNDING[precision] * np.linalg.norm(want, axis=1) + np.finfo(np.float32).tiny
    return np.maximum(np.maximum(moved, np.sqrt(np.mean(moved**2))), least).astype(np.float32)


def _value(model: PreTrainedModel, spec: ExportSpec, ids: Tensor) -> np.ndarray:
    """(1, num_labels) logits, those of the tokens (num_tokens, num_labels), or (1, dim) embedding of one row."""
    out: Any = model(input_ids=ids)
    if spec.task != "embed":
        return out.logits.flatten(0, -2).float().numpy()
    return pool_padded(out.last_hidden_state, torch.ones_like(ids), spec.pooling).float().numpy()
