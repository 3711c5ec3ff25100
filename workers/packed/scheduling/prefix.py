"""Names of full blocks: a block is known by its own tokens and by everything before them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def chain_block_keys(token_ids: np.ndarray, block_size: int, kind: int = 0) -> list[bytes]:
    """One 16-byte key per full block of `token_ids` (num_tokens,) int32; a trailing partial block has none.

    Equal tokens of another `kind`, under another adapter, say, have other keys and values: the kind starts the chain.
    """
    data = np.ascontiguousarray(token_ids, dtype=np.int32).tobytes()
    width = 4 * block_size
    keys: list[bytes] = []
    parent = kind.to_bytes(4, "little") if kind else b""
    for start in range(0, len(data) - width + 1, width):
        parent = blake2b(parent + data[start : start + width], digest_size=16).digest()
        keys.append(parent)
    return keys
