"""Batches as the named inputs of an ONNX graph."""

from __future__ import annotations

import numpy as np

from parquetry.workers.encoding.batching.row_batch import PackedBatch, PaddedBatch


def padded_feeds(batch: PaddedBatch) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and, where the batch has them, token_type_ids: (num_rows, max_seqlen) int64."""
    feeds = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return feeds if batch.token_type_ids is None else {**feeds, "token_type_ids": batch.token_type_ids}


def packed_feeds(batch: PackedBatch, position_start: int) -> dict[str, np.ndarray]:
    """input_ids, position_ids, token_offset, cu_seqlens and, where the batch has them, token_type_ids."""
    feeds = {
        "input_ids": batch.input_ids.astype(np.int64)[None],
        "position_ids": batch.positions(position_start).astype(np.int64)[None],
        "token_offset": token_offset(batch),
        "cu_seqlens": batch.cu_seqlens,
    }
    if batch.token_type_ids is not None:
        feeds["token_type_ids"] = batch.token_type_ids.astype(np.int64)[None]
    return feeds


def token_offset(batch: PackedBatch) -> np.ndarray:
    """(num_rows, max_seqlen) int32: where each token would lie in a padded batch, then where the padding would."""
    num_rows, longest = batch.num_rows, batch.max_seqlen
    real = np.arange(longest)[None, :] < batch.lens[:, None]
    offsets = np.arange(num_rows * longest, dtype=np.int32).reshape(num_rows, longest)
    return np.concatenate([offsets[real], offsets[~real]]).reshape(num_rows, longest)
