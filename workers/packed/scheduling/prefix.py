"""Names of full blocks: a block is known by its own tokens and by everything before them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def chain_block_keys(token_ids: np.ndarray, block_size: int, adapter: int = 0) -> list[bytes]:
    """One 16-byte key per full block of `token_ids` (num_tokens,) int32; a trailing partial block has none.

    Equal tokens under different adapters have different keys and values, so the adapter's number starts the chain.
    """
    data = np.ascontiguousarray(token_ids, dtype=np.int32).tobytes()
    width = 4 * block_size
    keys: list[bytes] = []
    parent = adapter.to_bytes(4, "little") if adapter else b""
    for start in range(0, len(data) - width + 1, width):
        parent = blake2b(parent + data[start : start + width], digest_size=16).digest()
        keys.append(parent)
    return keys
