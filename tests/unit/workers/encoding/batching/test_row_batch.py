"""Packing and padding on the host: hand-computed cases and properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parquetry.workers.encoding.attention.tiles import tiles
from parquetry.workers.encoding.batching.row_batch import pack, pad
from parquetry.workers.encoding.onnx.named_inputs import token_offset
from parquetry.workers.request import EncodeRequest


def requests_of(*lens: int, types: bool = False) -> list[EncodeRequest]:
    rows = [np.arange(10 * i, 10 * i + size, dtype=np.int32) for i, size in enumerate(lens, start=1)]
    kinds = [np.ones(size, np.int32) if types and i % 2 else None for i, size in enumerate(lens)]
    pairs = zip(rows, kinds, strict=True)
    return [EncodeRequest(id=i, token_ids=row, token_type_ids=kind) for i, (row, kind) in enumerate(pairs)]


def test_pack_lays_rows_end_to_end():
    batch = pack(requests_of(3, 2))
    assert batch.input_ids.tolist() == [10, 11, 12, 20, 21]
    assert batch.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.max_seqlen == 3
    assert batch.token_type_ids is None


def test_positions_start_anew_in_every_row():
    batch = pack(requests_of(3, 2))
    assert batch.positions(0).tolist() == [0, 1, 2, 0, 1]
    assert batch.positions(2).tolist() == [2, 3, 4, 2, 3]


def test_runs_group_neighbours_of_equal_length():
    assert pack(requests_of(4, 4, 2, 1, 1, 1)).runs == [(2, 4), (1, 2), (3, 1)]


def test_a_row_without_segment_ids_has_zeros():
    assert pack(requests_of(2, 3, types=True), with_types=True).token_type_ids.tolist() == [0, 0, 1, 1, 1]


def test_pad_fills_on_the_right():
    batch = pad(requests_of(3, 1), 7)
    assert batch.input_ids.tolist() == [[10, 11, 12], [20, 7, 7]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.num_padding == 2


def test_token_offset_lists_tokens_then_padding():
    # a 2 x 3 rectangle with rows of 2 and 3 tokens: token 2 is padding
    assert token_offset(pack(requests_of(2, 3))).tolist() == [[0, 1, 3], [4, 5, 2]]


def test_tiles_cover_a_row_in_steps():
    table = tiles(np.array([0, 5, 7], np.int32), 2)
    assert table.tolist() == [[0, 5, 0], [0, 5, 2], [0, 5, 4], [5, 7, 5]]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.sampled_from([16, 32, 64]))
def test_tiles_cover_every_token_once(lens, tile_rows):
    cu = np.concatenate(([0], np.cumsum(lens)))
    covered = [at for begin, end, first in tiles(cu, tile_rows) for at in range(first, min(end, first + tile_rows))]
    assert covered == list(range(sum(lens)))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_runs_describe_the_batch(lens):
    batch = pack(requests_of(*lens))
    assert [length for count, length in batch.runs for _ in range(count)] == lens
