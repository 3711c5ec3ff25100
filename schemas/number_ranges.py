"""Numbers of rows or shards as a short text: "3-5,9"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text, a range where they follow each other."""
    starts = [number for before, number in pairwise([-2, *numbers]) if number != before + 1]
    ends = [number for number, after in pairwise([*numbers, -2]) if after != number + 1]
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))


def numbers_in(text: str) -> set[int]:
    """The numbers that `ranges` wrote."""
    bounds = (part.partition("-") for part in filter(None, text.split(",")))
    return {number for first, _, last in bounds for number in range(int(first), int(last or first) + 1)}
