"""Where the time of packed batches goes: microseconds a batch by kernel, what lies between kernels, and the clocks.

    python benchmarks/encoder_profile.py                                   # BERT-base, mixed texts, a GPU
    python benchmarks/encoder_profile.py --shape bert-large --sides packed onnx_packed

A card that multiplies for seconds draws all the power it may and lowers its clocks: the rate of large products is given
for a few at a time, and for a second of them without a pause.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from encoder_sides import SHAPES, Sides, flops, write_model
from encoders import matmul_rate
from texts import LENGTHS, texts

from parquetry.workers.loading.model import quieten

#: gaps between kernels that are longer than this are listed on their own, microseconds
_LONG_GAP = 50.0


@contextmanager
def clocks() -> Iterator[list[tuple[float, float]]]:
    """MHz of the multiprocessors and watts, sampled every 100 ms while the block runs; filled in when it ends."""
    found: list[tuple[float, float]] = []
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(query, stdout=subprocess.PIPE, text=True) as sampler:
        try:
            yield found
        finally:
            sampler.terminate()
            lines = [line.split(",") for line in sampler.communicate()[0].splitlines() if line.count(",") == 1]
            found += [(float(mhz), float(watts)) for mhz, watts in lines]


def kernel_spans(run: Callable[[], object]) -> list[tuple[float, float, str]]:
    """Begin and end in microseconds, and name, of everything the card did while `run` ran, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    on_card = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sorted((event.time_range.start, event.time_range.end, event.name) for event in on_card)


def report(spans: list[tuple[float, float, str]], num_batches: float) -> None:
    """Print microseconds a batch by kernel, and the gaps."""
    times: Counter[str] = Counter()
    gaps: Counter[str] = Counter()
    covered = spans[0][0]
    for begin, end, name in spans:
        times[name] += end - begin
        gap = max(0.0, begin - covered)
        gaps["long" if gap > _LONG_GAP else "short"] += gap
        covered = max(covered, end)
    for name, micros in times.most_common(12):
        print(f"  {micros / num_batches:9.1f} us  {name[:100]}")
    others = sum(times.values()) - sum(micros for _, micros in times.most_common(12))
    print(f"  {others / num_batches:9.1f} us  in {max(0, len(times) - 12)} other kernels")
    print(f"  {gaps['short'] / num_batches:9.1f} us  in gaps of up to {_LONG_GAP:g} us")
    print(f"  {gaps['long'] / num_batches:9.1f} us  in longer gaps", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--lengths", choices=LENGTHS, default="mixed")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--sides", nargs="+", choices=["packed", "onnx_packed", "onnx_padded"], default=["packed"])
    args = parser.parse_args()
    quieten()
    rows = texts(args.lengths, args.rows)
    num_tokens = sum(map(len, rows))
    burst, sustained = matmul_rate("cuda:0")
    print(f"products: {burst / 1e12:.0f} TFLOP/s a few at a time, {sustained / 1e12:.0f} without a pause")
    with tempfile.TemporaryDirectory() as folder:
        write_model(args.shape, Path(folder) / "model")
        sides = Sides(Path(folder) / "model", "cuda:0", torch.bfloat16)
        for name in args.sides:
            sides.makers = {name: getattr(sides, name)}
            side = sides.made(name)
            side(rows)
            with clocks() as samples:
                start = time.perf_counter()
                side(rows)
                seconds = time.perf_counter() - start
            share = flops(args.shape, rows) / seconds / burst
            print(f"{args.shape}, {args.lengths}, {name}: {num_tokens / seconds:,.0f} tokens/s, {share:.1%} of matmul")
            print(f"  {1e6 * seconds * 65_536 / num_tokens:9.1f} us by the clock for 65,536 tokens")
            if samples:
                mhz, watts = (sorted(column)[len(column) // 2] for column in zip(*samples, strict=True))
                print(f"  median {mhz:.0f} MHz, {watts:.0f} W")
            report(kernel_spans(lambda side=side: side(rows)), num_tokens / 65_536)


if __name__ == "__main__":
    main()
