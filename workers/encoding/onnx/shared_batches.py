"""Whether rows of an ONNX file answer beside a longer row as they do alone.

Nobody knows how such a file was exported: one may leave its attention mask unused, or add up what padding holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from parquetry.workers.checks.sharing import Sharing
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.request import EncodeRequest

#: rows to what is answered for each of them
Answer = Callable[[list[EncodeRequest]], np.ndarray | list[np.ndarray]]
#: tokens of the two short rows and of the long one
SHORT, LONG = 13, 32
#: how many times the noise a row may be off beside a longer one
LIMIT = 8.0
#: the noise at the least, as a share of the answer; whole numbers are scaled by what the batch holds
ROUNDING = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2}


def choose_sharing(answer: Answer, limits: RowLimits, precision: str, pad_id: int) -> Sharing:
    """Which rows may share a padded batch. A row's noise is what an equally long neighbour moves it by."""
    long = min(LONG, limits.max_tokens or LONG)
    if long <= SHORT:
        return Sharing()
    row, neighbour, longer = _rows(limits.vocab_size, (SHORT, SHORT, long), pad_id)
    alone = answer([row])[0]
    noise = max(_gap(answer([row, neighbour])[0], alone), ROUNDING[precision] * float(np.linalg.norm(alone)))
    error = _gap(answer([row, longer])[0], alone) / (noise + np.finfo(np.float32).tiny)
    if error <= LIMIT:
        return Sharing()
    reason = f"a row of {SHORT} tokens beside one of {long} is off by {error:.3g} times its noise; {LIMIT:g} is allowed"
    return Sharing("equal lengths", reason)


def _rows(vocab_size: int, lengths: Sequence[int], pad_id: int) -> list[EncodeRequest]:
    """Random rows without the padding id."""
    random = np.random.default_rng(0)
    drawn = [random.integers(0, vocab_size, length, dtype=np.int32) for length in lengths]
    ids = [np.where(row == pad_id, (row + 1) % vocab_size, row).astype(np.int32) for row in drawn]
    return [EncodeRequest(id=number, token_ids=row) for number, row in enumerate(ids)]


def _gap(found: np.ndarray, wanted: np.ndarray) -> float:
    """The length of the difference; infinite where it is no number."""
    gap = float(np.linalg.norm(np.asarray(found) - np.asarray(wanted)))
    return gap if np.isfinite(gap) else np.inf
