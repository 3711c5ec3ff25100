"""Which rows may share a padded batch: rows beside longer ones and beside equal ones, against each alone.

Families differ too much in what their layers are for a comparison layer by layer, and what padding does wrong is no
small thing: positions shifted, a state that went through padding, windows filled with it. So whole outputs are
compared. Their noise is that of the model from end to end: what a row alone moves by when every layer's output is
rounded otherwise. A model one precision up would have to be a second one in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from parquetry.schemas.errors import UnusableModelError
from parquetry.workers.checks.narrowing import NARROW, chooses_tokens, narrowed, widths_to_try
from parquetry.workers.checks.prompts import check_prompts
from parquetry.workers.checks.rounding import filled_otherwise, rounded_otherwise
from parquetry.workers.preparation.added_tokens import tokens_around

#: what a model gives for the rows of one batch: for each row its numbers (of any shape), those of padding left out
Compute = Callable[[Sequence[np.ndarray]], list[Tensor]]

#: lengths of the two rows; on a CPU short ones, for a large model takes its time there
NUM_TOKENS = {"cuda": (71, 150), "cpu": (13, 32)}
#: more short rows for models that choose tokens by a score: it is chance whether a choice depends on the padding
MORE_TOKENS = (17, 21, 25, 29)

#: how many times its noise a row may be off in company: right families, half precision and experts included, reach 0.8
LIMIT = 2.0
#: the same for what changes with the vectors that padding holds, where shapes and kernels are the same
FILLING_LIMIT = 0.5
#: how often the noise is drawn, and how often more before a batch is called wrong
NUM_ROUNDINGS, NUM_MORE = 1, 5
#: keeps what is zero from being divided by zero
TINY = 1e-30
#: what a model raises that cannot compute a batch
FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError, AssertionError)


@dataclass(frozen=True)
class Sharing:
    """Which rows may share a batch, and why not any."""

    rows: Literal["any", "equal lengths", "none"] = "any"
    reason: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What provenance says of it."""
        names = {"equal lengths": "equal_lengths_only", "none": "one_row_at_a_time"}
        return {} if self.rows == "any" else {names[self.rows]: self.reason}

    @property
    def warning(self) -> str:
        """What the log says of it."""
        how = "only rows of equal length share a batch" if self.rows == "equal lengths" else "rows run one at a time"
        return f"{how}, which is slower: {self.reason}"


def rows_to_share(
    tokenizer: Tokenizer | None, model: PreTrainedModel, max_tokens: int | None, pad_id: int | None
) -> list[np.ndarray]:
    """A short row or more, and last a longer one; one alone where the model takes none. None holds the padding id.

    They end as the tokenizer ends texts: some classifiers read a text at its end token.
    """
    vocab_size = model.get_input_embeddings().weight.shape[0]
    wanted = NUM_TOKENS[model.device.type] + (MORE_TOKENS if chooses_tokens(model) else ())
    lengths = sorted({min(length, max_tokens or length) for length in wanted})
    end = [] if tokenizer is None else [id for _, id in tokens_around(tokenizer)[1] if id < vocab_size]
    rows = [
        np.concatenate([row[: max(0, len(row) - len(end))], end])[-len(row) :].astype(np.int32)
        for row in check_prompts(tokenizer, vocab_size, lengths)
    ]
    return rows if pad_id is None else [np.where(row == pad_id, (pad_id + 1) % vocab_size, row) for row in rows]


def shortened(row: np.ndarray, length: int, num_last: int) -> np.ndarray:
    """`length` tokens of a longer row: its first ones, and its `num_last` last ones behind them."""
    return np.concatenate([row[: length - num_last], row[len(row) - num_last :]])


class RowAlone:
    """What a model gives for a row alone, and how far rounding moves that."""

    def __init__(self, model: PreTrainedModel, compute: Compute, row: np.ndarray) -> None:
        """Raises UnusableModelError when the model cannot compute it."""
        self._model, self._compute, self._row = model, compute, row
        try:
            self._value = compute([row])[0].float()
        except FAILURES as error:
            reason = f"a row of {len(row)} tokens fails in it ({first_line(error)})"
            raise UnusableModelError(model=model.name_or_path, reason=reason) from error
        self._noise = torch.finfo(torch.float32).eps * size(self._value) + TINY
        self.draw(range(NUM_ROUNDINGS))

    def draw(self, seeds: Iterable[int]) -> None:
        """Take the noise of more roundings into account."""
        for seed in seeds:
            with rounded_otherwise(self._model, seed):
                found = self._compute([self._row])[0]
            self._noise = max(self._noise, gap(found, self._value))

    def error(self, found: Tensor, wanted: Tensor | None = None) -> float:
        """How far `found` is from what the row gives alone, or from `wanted`, in units of its noise."""
        return gap(found, self._value if wanted is None else wanted) / self._noise


def gap(found: Tensor, wanted: Tensor) -> float:
    """The length of the difference; infinite where it is no number."""
    # what is ruled out is minus infinity in both, and what overflows in both is no fault of the batch
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    length = float(torch.where(same, 0.0, found.float() - wanted.float()).norm())
    return length if math.isfinite(length) else math.inf


def size(value: Tensor) -> float:
    """The length of what is finite of it."""
    return float(torch.where(value.isfinite(), value, 0.0).norm())


def choose_sharing(model: PreTrainedModel, compute: Compute, rows: Sequence[np.ndarray], pad_id: int | None) -> Sharing:
    """Which rows may share a batch of `compute`, found with `rows`, short ones and last a longer one.

    Windows are as they are, and narrowed. Raises UnusableModelError when the model cannot compute one alone.
    """
    *shorter, longest = rows
    for width in widths_to_try(model):
        with narrowed(model, width), torch.inference_mode():
            # a model that takes no longer rows than one of these is still seen to compute it
            for short in shorter or [longest]:
                sharing = _choose(model, compute, short, longest, pad_id)
                if sharing.rows != "any":
                    return sharing
    return Sharing()


def share_or_not(
    model: PreTrainedModel, compute: Compute, short: np.ndarray, longest: np.ndarray, pad_id: int | None
) -> Sharing:
    """`choose_sharing` for two rows that cannot be cut to equal lengths, as those with images: any, or none."""
    with narrowed(model, NARROW), torch.inference_mode():
        reason = _why_not(model, RowAlone(model, compute, short), compute, [short, longest], pad_id)
    return Sharing() if reason is None else Sharing("none", reason)


def _choose(
    model: PreTrainedModel, compute: Compute, short: np.ndarray, longest: np.ndarray, pad_id: int | None
) -> Sharing:
    alone = RowAlone(model, compute, short)
    reason = _why_not(model, alone, compute, [short, longest], pad_id)
    if reason is None:
        return Sharing()
    equals = [shortened(longest, len(short), len(short) // part) for part in (2, 3)]
    problem = _problem(alone, compute, [short, *equals])
    if problem is None:
        return Sharing("equal lengths", reason)
    return Sharing("none", f"{reason}; beside others of its length it {problem}")


def _why_not(
    model: PreTrainedModel, alone: RowAlone, compute: Compute, rows: Sequence[np.ndarray], pad_id: int | None
) -> str | None:
    """Why the first row, which is `alone`'s, may not share a batch with the second."""
    reason = _problem(alone, compute, rows) or _problem_of_filling(model, alone, compute, rows, pad_id)
    return reason and f"a row of {len(rows[0])} tokens beside one of {len(rows[1])} {reason}"


def _problem(alone: RowAlone, compute: Compute, rows: Sequence[np.ndarray]) -> str | None:
    """What is wrong with the first row in this batch."""
    try:
        found = compute(rows)[0]
    except FAILURES as error:
        return f"fails in it ({first_line(error)})"
    if alone.error(found) > LIMIT:
        # a few roundings may have missed what another would have moved, such as the choice of an expert
        alone.draw(range(NUM_ROUNDINGS, NUM_ROUNDINGS + NUM_MORE))
    off = alone.error(found)
    return None if off <= LIMIT else f"is off by {off:.3g} times its noise, where {LIMIT:g} is allowed"


def _problem_of_filling(
    model: PreTrainedModel, alone: RowAlone, compute: Compute, rows: Sequence[np.ndarray], pad_id: int | None
) -> str | None:
    """Whether the short row changes with what it is filled up with, which shows however large the noise is.

    In float32 the noise hides nothing, and there it is no fault when padding is read whose vector is zero.
    """
    if pad_id is None or model.dtype.itemsize > 2:
        return None
    found = compute(rows)[0]
    with filled_otherwise(model, pad_id, max(map(len, rows))):
        other = compute(rows)[0]
    error = alone.error(other, found)
    return None if error <= FILLING_LIMIT else f"changes by {error:.3g} times its noise with what it is filled up with"


def first_line(error: Exception) -> str:
    """The beginning of what an error says."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
