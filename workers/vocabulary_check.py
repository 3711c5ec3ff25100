"""Whether a model has a vector for every token of a row: on a GPU an id beyond its table ends the whole process."""

from __future__ import annotations

import numpy as np


def unknown_ids(what: str, ids: np.ndarray, vocab_size: int) -> str | None:
    """Why a model of `vocab_size` tokens cannot take `ids` (num_tokens,), the tokens of `what`; None when it can."""
    if not len(ids) or 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        return None
    return f"{what} has token ids that the model does not know; its tokenizer.json is of another model"
