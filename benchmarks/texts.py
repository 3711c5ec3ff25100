"""Seeded texts for the encoder benchmark: token ids, as long as short posts, mixed reviews and long articles are."""

from __future__ import annotations

import numpy as np

#: median, sigma of the lognormal, and the cap: 21 tokens, 116 and 340 on average
LENGTHS = {"short": (18, 0.7, 128), "mixed": (81, 0.85, 512), "long": (400, 1.0, 512)}
_FIRST_WORD_ID = 1000


def texts(kind: str, num_rows: int, vocab_size: int = 30522) -> list[np.ndarray]:
    """(num_tokens,) int32 each, between [CLS] (101) and [SEP] (102)."""
    random = np.random.default_rng(2)
    median, sigma, cap = LENGTHS[kind]
    lens = np.clip(random.lognormal(np.log(median), sigma, num_rows), 2, cap - 2).astype(int)
    return [np.array([101, *random.integers(_FIRST_WORD_ID, vocab_size, size), 102], np.int32) for size in lens]
