"""Lists that are part of a larger array, on their own."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def own_values(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Offsets from 0 on, and the values between them, of a list, large list or map array.

    What a slice is cut from has other lists' values too.
    """
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    return pc.subtract(array.offsets, array.offsets[0]), array.values.slice(first, last - first)
