"""Cutting the input into shards: a few row bounds, chosen from footers alone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from parquetry.schemas.spec.job import JobSpec

#: a shard may be this fraction shorter or longer than asked for, to end where a row group ends
TOLERANCE = 0.25

# What `rows: auto` assumes of an engine, on the slow side of one data-centre GPU with a model of a few billion
# parameters. A wrong guess makes shards last longer or shorter than intended, nothing else.
_TARGET_SECONDS = 90.0
_PROMPT_TOKENS_PER_SECOND = 20_000.0
_OUTPUT_TOKENS_PER_SECOND = 5_000.0
_ENCODED_TOKENS_PER_SECOND = 100_000.0
_BYTES_PER_TOKEN = 4.0
#: rows usually end before max_new_tokens
_USED_OUTPUT = 0.5
#: shards wanted at least, so that several workers have something to do
_MIN_SHARDS = 8
_MIN_ROWS = {"generate": 64, "classify": 512, "score": 512, "embed": 512}
_MAX_ROWS = 100_000


def cut(
    row_group_rows: Sequence[Sequence[int]], rows_per_shard: int, limit: int | None = None, *, start: int = 0
) -> tuple[int, ...]:
    """Bounds of the shards from row `start` on: ascending, the last one the number of rows (at most `limit`).

    A shard has `rows_per_shard` rows, or up to a quarter more or less where that makes it end with a row group, so
    that fewer row groups are read twice. The last shard may be shorter still.
    """
    ends = sorted(set(accumulate(rows for counts in row_group_rows for rows in counts)) - {0})
    total = ends[-1] if ends else 0
    total = total if limit is None else min(total, limit)
    ends = [*ends[: bisect_left(ends, total)], total]
    bounds = [start]
    while bounds[-1] < total:
        bounds.append(_next_bound(ends, bounds[-1], rows_per_shard))
    return tuple(bounds)


def _next_bound(ends: Sequence[int], start: int, rows: int) -> int:
    target = start + rows
    slack = int(rows * TOLERANCE)
    near = ends[bisect_left(ends, max(start + 1, target - slack)) : bisect_right(ends, target + slack)]
    return min(near, key=lambda end: abs(end - target)) if near else min(target, ends[-1])


def rows_auto(spec: JobSpec, *, num_rows: int, row_bytes: float) -> int:
    """Rows for about one and a half minutes of engine time, with at least eight shards where the input allows it.

    `row_bytes` is the mean size of a row in the columns that are read, which bounds its prompt. The rule knows neither
    the model's size nor the card: it is the same everywhere, so the same spec is always cut alike.
    """
    by_time = int(_TARGET_SECONDS / _seconds_per_row(spec, row_bytes))
    by_count = -(-num_rows // _MIN_SHARDS)
    return max(_MIN_ROWS[spec.task], min(by_time, by_count, _MAX_ROWS))


def _seconds_per_row(spec: JobSpec, row_bytes: float) -> float:
    tokens = max(row_bytes / _BYTES_PER_TOKEN, 1.0)
    if spec.task != "generate":
        return tokens / _ENCODED_TOKENS_PER_SECOND
    output = spec.generation.max_new_tokens * spec.generation.n * _USED_OUTPUT
    return tokens / _PROMPT_TOKENS_PER_SECOND + output / _OUTPUT_TOKENS_PER_SECOND
