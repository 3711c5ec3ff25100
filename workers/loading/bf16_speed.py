"""Whether this processor computes in bfloat16 faster than in float32: by its instructions, then by timing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache

from parquetry.workers.cpu import Cpu, this_cpu

#: rows, inputs and outputs of the product that is timed, and how often; together a few milliseconds
_SHAPE = (64, 1024, 1024)
_REPEATS = 5


@dataclass(frozen=True)
class Bf16Verdict:
    """Whether bfloat16 is the faster one, and the reason in words that fit a log line."""

    is_fast: bool
    reason: str


@lru_cache(maxsize=1)
def cpu_bf16() -> Bf16Verdict:
    """The verdict on this machine; timed at most once a process."""
    return judge(this_cpu())


def judge(processor: Cpu) -> Bf16Verdict:
    """The verdict on this machine's processor.

    Without the instructions bfloat16 is emulated, slowly. With them it may be as well, where the system or torch does
    not use them, so one product is timed in both.
    """
    if processor.instructions is not None and processor.bf16 is None:
        return Bf16Verdict(False, "this processor has no instructions for bfloat16")
    half, full = product_seconds()
    told = f"one product takes {half * 1e3:.2f} ms in bfloat16 and {full * 1e3:.2f} ms in float32"
    return Bf16Verdict(half < full, f"{told} ({processor.bf16 or 'instructions not listed'})")


def product_seconds() -> tuple[float, float]:
    """Least seconds of one linear layer's product in bfloat16 and in float32, taken in turns."""
    import torch

    rows, inputs, outputs = _SHAPE
    # not zeros: a processor's clock depends on the numbers it multiplies
    x, weight = torch.linspace(-1, 1, rows * inputs).view(rows, -1), torch.linspace(-1, 1, outputs * inputs)
    pairs = [(x.to(dtype), weight.view(outputs, -1).to(dtype)) for dtype in (torch.bfloat16, torch.float32)]
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(_REPEATS + 1):
            for found, (left, right) in zip(times, pairs, strict=True):
                start = time.perf_counter()
                torch.nn.functional.linear(left, right)
                found.append(time.perf_counter() - start)
    # the first one makes the kernel
    half, full = (min(found[1:]) for found in times)
    return half, full
