"""How long the outputs of a shard's rows will be, told from those that are finished and those that are under way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np


def expected_output(finished: Mapping[int, int], under_way: Iterable[int], limit: int) -> float | None:
    """Mean output tokens of a request; None before one is finished.

    `finished` counts requests by their output tokens, `under_way` has what the others have so far. Short outputs finish
    first, so their mean alone tells too little: this is Kaplan and Meier's estimate, in which a request that still runs
    says that it is longer than it is now. Beyond the longest that was seen, outputs end as often as before (up to
    `limit`).
    """
    ages = np.fromiter(under_way, np.int64)
    if not finished or not limit:
        return None
    longest = max(max(finished), int(ages.max(initial=0)))
    ends = np.zeros(longest + 1)
    for length, count in finished.items():
        ends[length] += count
    leaves = np.bincount(ages, minlength=longest + 1)
    # at risk of ending with so many tokens: those that have reached them
    at_risk = np.cumsum((ends + leaves)[::-1])[::-1]
    alive = np.cumprod(1.0 - ends / np.maximum(at_risk, 1))
    num_ends = ends.sum()
    tokens = float(np.dot(np.arange(longest + 1), ends + leaves))
    usual = max(tokens / num_ends, 1.0)
    beyond = usual * (1.0 - float(np.exp(-max(limit - longest, 0) / usual)))
    # an output of n tokens has reached 0 .. n-1
    return float(alive[:-1].sum() + alive[-1] * beyond)
