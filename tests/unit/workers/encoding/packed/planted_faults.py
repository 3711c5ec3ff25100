"""Wrong ways to compute a packed encoder. Each is a small mistake of the kind that a kernel or a change can make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor, nn

from parquetry.workers.encoding.attention import varlen_hook
from tests.unit.workers.checks.planted_faults import LAYERS

Attend = Callable[..., Tensor]


def swapped_heads(right: Attend, q, k, v, runs, scale, sliding_window, causal) -> Tensor:
    """The outputs of the first two heads change places."""
    out = right(q, k, v, runs, scale, sliding_window, causal)
    return out[:, [1, 0, *range(2, out.shape[1])]]


def wrong_scale(right: Attend, q, k, v, runs, scale, sliding_window, causal) -> Tensor:
    """Scores are half again too large."""
    return right(q, k, v, runs, 1.5 * scale, sliding_window, causal)


def short_window(right: Attend, q, k, v, runs, scale, sliding_window, causal) -> Tensor:
    """A sliding window is one token too short; layers without one get one of 16."""
    return right(q, k, v, runs, scale, (sliding_window or 17) - 1, causal)


def other_direction(right: Attend, q, k, v, runs, scale, sliding_window, causal) -> Tensor:
    """Tokens see what comes behind them where they may not, and do not where they may."""
    return right(q, k, v, runs, scale, sliding_window, not causal)


def lost_boundary(right: Attend, q, k, v, runs, scale, sliding_window, causal) -> Tensor:
    """The first two rows are taken for one."""
    lengths = [length for count, length in runs for _ in range(count)]
    first, second, *rest = lengths
    merged = [(1, first + second), *((1, length) for length in rest)]
    return right(q, k, v, merged, scale, sliding_window, causal)


def neighbours_value(right: Attend, q, k, v, runs, scale, sliding_window, causal) -> Tensor:
    """The last token of the batch takes a tenth of the value of the first."""
    out = right(q, k, v, runs, scale, sliding_window, causal).clone()
    out[-1] = 0.9 * out[-1] + 0.1 * v[0].repeat_interleave(out.shape[1] // v.shape[1], 0)
    return out


ATTENTION = (swapped_heads, wrong_scale, short_window, other_direction, lost_boundary, neighbours_value)
FAULTS = [fault.__name__ for fault in (*ATTENTION, *LAYERS)]


@contextmanager
def planted(name: str, layers: nn.ModuleList) -> Iterator[None]:
    """Compute with this fault."""
    fault = next((fault for fault in ATTENTION if fault.__name__ == name), None)
    if fault is None:
        with next(change for change in LAYERS if change.__name__ == name)(layers):
            yield
        return
    right = varlen_hook.attend_runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen_hook, "attend_runs", lambda *args: fault(right, *args))
        yield
