"""Tokens that make whole waves of tiles."""

from __future__ import annotations

import pytest
import torch

from parquetry.workers.packed.attention.sdpa import SdpaBackend
from parquetry.workers.packed.waves import full_step, tokens_of_whole_waves


@pytest.mark.parametrize(
    ("processors", "hidden_size", "tokens"),
    [
        # 16 columns of tiles: 33 rows of them are 528 tiles, four waves of 132
        (132, 4096, 33 * 128),
        (132, 1024, 33 * 128),
        # 14 columns: 66 rows are 924 tiles, seven waves
        (132, 3584, 66 * 128),
        # an A100: 27 rows of 16 are four waves of 108
        (108, 4096, 27 * 128),
        # narrower than a tile
        (132, 64, 132 * 128),
    ],
)
def test_whole_waves(processors: int, hidden_size: int, tokens: int) -> None:
    assert tokens_of_whole_waves(processors, hidden_size) == tokens
    rows, columns = tokens // 128, max(1, hidden_size // 256)
    assert rows * columns % processors == 0
    assert all(fewer * columns % processors for fewer in range(1, rows))


def test_a_cpu_has_no_waves() -> None:
    assert full_step(SdpaBackend(), torch.device("cpu"), 4096) is None
