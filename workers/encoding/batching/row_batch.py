"""Rows side by side in one sequence of tokens, or under each other with padding. Host side, numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from parquetry.workers.request import EncodeRequest


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """`num_rows` texts laid end to end, longest first; no token is padding."""

    #: (num_rows,) int64, the requests in the order of the rows
    ids: np.ndarray
    #: (num_tokens,) int32
    input_ids: np.ndarray
    #: (num_tokens,) int32, or None when the model has no segment ids
    token_type_ids: np.ndarray | None
    #: (num_rows,) int32
    lens: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.lens)

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def max_seqlen(self) -> int:
        return int(self.lens.max())

    @cached_property
    def cu_seqlens(self) -> np.ndarray:
        """(num_rows + 1,) int32: row i is tokens [cu_seqlens[i], cu_seqlens[i + 1])."""
        return np.concatenate(([0], np.cumsum(self.lens))).astype(np.int32)

    def last_tokens(self, pad_id: int | None) -> np.ndarray:
        """(num_rows,) int64: index of each row's last token that is not `pad_id`; its first where all tokens are."""
        ends = self.cu_seqlens[1:].astype(np.int64) - 1
        if pad_id is None or not (self.input_ids[ends] == pad_id).any():
            return ends
        indices = np.where(self.input_ids != pad_id, np.arange(self.num_tokens), 0)
        begins = self.cu_seqlens[:-1]
        return np.maximum(np.maximum.reduceat(indices, begins), begins)

    def positions(self, start: int) -> np.ndarray:
        """(num_tokens,) int32, counted from `start` in every row."""
        offsets = np.repeat(self.cu_seqlens[:-1] - start, self.lens)
        return np.arange(self.num_tokens, dtype=np.int32) - offsets

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(count, length) of neighbouring rows that are equally long, in order."""
        edges = np.flatnonzero(np.diff(self.lens)) + 1
        starts = np.concatenate(([0], edges, [self.num_rows]))
        return [(int(end - start), int(self.lens[start])) for start, end in pairwise(starts)]


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """`num_rows` texts as a rectangle, padded on the right."""

    ids: np.ndarray
    #: (num_rows, max_seqlen) int64
    input_ids: np.ndarray
    #: (num_rows, max_seqlen) int64, 1 for real tokens
    attention_mask: np.ndarray
    token_type_ids: np.ndarray | None
    lens: np.ndarray

    @property
    def num_padding(self) -> int:
        """Padding tokens."""
        return int(self.input_ids.size - self.lens.sum())


def pack(requests: Sequence[EncodeRequest], *, with_types: bool = False) -> PackedBatch:
    """Lay requests end to end in the order given; segment ids are 0 where a request has none."""
    lens = np.fromiter((len(r.token_ids) for r in requests), dtype=np.int32, count=len(requests))
    types = _types(requests, int(lens.sum())) if with_types else None
    tokens = np.concatenate([r.token_ids for r in requests]).astype(np.int32, copy=False)
    return PackedBatch(_ids(requests), tokens, types, lens)


def pad(requests: Sequence[EncodeRequest], pad_id: int, *, with_types: bool = False) -> PaddedBatch:
    """Put requests under each other, filled up with `pad_id` to the longest."""
    packed = pack(requests, with_types=with_types)
    mask = np.arange(packed.max_seqlen)[None, :] < packed.lens[:, None]
    tokens = np.full(mask.shape, pad_id, np.int64)
    tokens[mask] = packed.input_ids
    types = None
    if packed.token_type_ids is not None:
        types = np.zeros(mask.shape, np.int64)
        types[mask] = packed.token_type_ids
    return PaddedBatch(packed.ids, tokens, mask.astype(np.int64), types, packed.lens)


def _types(requests: Sequence[EncodeRequest], num_tokens: int) -> np.ndarray:
    """(num_tokens,) int32."""
    if all(request.token_type_ids is None for request in requests):
        return np.zeros(num_tokens, np.int32)
    given = ((request.token_ids, request.token_type_ids) for request in requests)
    return np.concatenate([np.zeros_like(ids) if types is None else types for ids, types in given]).astype(np.int32)


def _ids(requests: Sequence[EncodeRequest]) -> np.ndarray:
    return np.fromiter((r.id for r in requests), dtype=np.int64, count=len(requests))
