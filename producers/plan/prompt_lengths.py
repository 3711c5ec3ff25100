"""How long prompts are, as a histogram over doubling lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict

#: lengths up to here share a bucket
_SHORTEST = 16


class LengthBucket(BaseModel):
    """How many sampled prompts have at most `up_to` tokens, and more than the bucket before."""

    model_config = ConfigDict(frozen=True)

    up_to: int
    prompts: int


def histogram(lengths: Iterable[int]) -> tuple[LengthBucket, ...]:
    """Buckets from the shortest prompt's to the longest one's, empty ones between them too."""
    counts = Counter(max(_SHORTEST, 1 << (length - 1).bit_length()) for length in lengths if length > 0)
    if not counts:
        return ()
    bounds = [1 << power for power in range(min(counts).bit_length() - 1, max(counts).bit_length())]
    return tuple(LengthBucket(up_to=bound, prompts=counts[bound]) for bound in bounds)
