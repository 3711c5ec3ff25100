"""Where one steady decode step goes: time per step, share of the roofline, and microseconds per kind of kernel.

python benchmarks/decode_profile.py --model llama-8b --context 600 --batches 64 256 512
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generation import measure_ceilings
from models import kv_bytes_read, make_model, num_parameters, weight_bytes_read

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.packed.sampling.sampler import SamplingMode
from parquetry.workers.packed.scheduling.batch import Batch


def steady_batch(engine: PackedEngine, size: int, context: int) -> Batch:
    """`size` decodes that each see `context` tokens; their blocks are scattered over the whole cache.

    Their newest tokens differ: equal ones would all go to the same experts.
    """
    block_size, tables = engine.pool.block_size, engine.runner.forward.device_lanes.tables
    per_lane = -(-context // block_size)
    blocks = torch.randperm(engine.pool.num_blocks)[: size * per_lane].view(size, per_lane).to(tables)
    tables[:size, :per_lane] = blocks
    tokens = engine.runner.forward.device_lanes.tokens
    tokens[:size] = torch.randint(0, engine.model.config.vocab_size, (size,)).to(tokens)
    lanes = np.arange(size, dtype=np.int32)
    return Batch(lanes, np.full(size, context - 1, dtype=np.int32), blocks[:, -1].cpu().numpy(), [])


def seconds_per_step(engine: PackedEngine, batch: Batch, steps: int = 20) -> float:
    """Mean over replays of the same step."""
    for _ in range(3):
        engine.runner.graphs.tokens(batch, SamplingMode.GREEDY)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        engine.runner.graphs.tokens(batch, SamplingMode.GREEDY)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def kernel_times(engine: PackedEngine, batch: Batch) -> Counter[str]:
    """Microseconds per kernel name in one replay."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        engine.runner.graphs.tokens(batch, SamplingMode.GREEDY)
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name] += event.device_time_total
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="llama-8b")
    parser.add_argument("--context", type=int, default=600)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--quantization", default="none")
    args = parser.parse_args()
    ceilings = measure_ceilings()
    model = make_model(args.model, quantization=args.quantization)
    options = PackedOptions(attention=args.attention, max_num_seqs=max(args.batches))
    engine = PackedEngine(model, None, (), options)
    print(f"{args.model}: ready in {engine.startup_s:.1f} s, {engine.describe()}")
    for size in args.batches:
        batch = steady_batch(engine, size, args.context)
        seconds = seconds_per_step(engine, batch)
        cache = kv_bytes_read(model.config, np.full(size, args.context)) / ceilings["bytes_per_s"]
        reading = weight_bytes_read(model.config, size) / ceilings["bytes_per_s"]
        computing = 2 * size * num_parameters(model.config) / ceilings["flop_per_s"]
        floor = max(cache + reading, computing)
        print(
            f"batch {size}: {seconds * 1e3:.2f} ms, {size / seconds:,.0f} tok/s, roofline {floor / seconds:.1%}, "
            f"{(cache + max(reading, computing)) / seconds:.1%} with the products at the slower of their two bounds"
        )
        times = kernel_times(engine, batch)
        for name, micros in times.most_common(14):
            print(f"  {micros:9.1f} us  {name[:110]}")
        total, listed = sum(times.values()), sum(micros for _, micros in times.most_common(14))
        print(f"  {total - listed:9.1f} us  in {len(times) - 14} other kernels")
        print(f"  {1e6 * seconds - total:9.1f} us  between kernels")


if __name__ == "__main__":
    main()
