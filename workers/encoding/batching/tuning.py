"""How many tokens a full batch had best have: the library picks its product kernels by the exact number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from parquetry.workers.encoding.batching.row_batch import PackedBatch, pack
from parquetry.workers.request import EncodeRequest

#: tokens below the budget that are tried; on an H100 the kernels picked for a power of two were 8% slower than those
#: picked for most numbers just below it
_CUTS = (0, 104, 232, 360, 616, 1000)
_ROW, _REPEATS = 128, 3


@torch.inference_mode()
def best_num_tokens(run: Callable[[PackedBatch], object], budget: int, vocab_size: int) -> int:
    """The number near `budget` at which `run`, a pass over a batch on a GPU, takes the least time a token."""
    if budget < 8 * max(_CUTS):
        return budget
    sizes = [budget - cut for cut in _CUTS]
    return max(sizes, key=lambda size: size / _milliseconds(run, full_batch(size, vocab_size)))


def full_batch(num_tokens: int, vocab_size: int) -> PackedBatch:
    """A batch of exactly so many tokens; random ones, for the card's clocks depend on the numbers it multiplies."""
    ids = np.random.default_rng(0).integers(0, vocab_size, num_tokens, dtype=np.int32)
    rows = [ids[start : start + _ROW] for start in range(0, num_tokens, _ROW)]
    return pack([EncodeRequest(id=index, token_ids=row) for index, row in enumerate(rows)], with_types=False)


def _milliseconds(run: Callable[[PackedBatch], object], batch: PackedBatch) -> float:
    """Least time of one pass, after one that is not counted."""
    run(batch)
    times = []
    for _ in range(_REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(batch)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times)
