"""Memory of ONNX Runtime over thousands of batches of random shapes: its arena must stay level.

    python benchmarks/encoder_memory.py                              # 10,000 batches; packed on CUDA where there is one
    python benchmarks/encoder_memory.py --shape tiny --batches 2000

Prints the memory in use after every tenth of the batches, and fails when it grew by more than --bound after the first.
On a GPU the device's memory counts, on a CPU this process's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from encoder_sides import MAX_TOKENS, SHAPES, Sides, write_model

from parquetry.workers.encoding.queued import QueuedEncoder
from parquetry.workers.loading.model import quieten
from parquetry.workers.request import EncodeRequest

_VOCAB = (1000, 30522)


def parse_args() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="bert-base" if on_gpu else "tiny")
    parser.add_argument("--form", choices=("packed", "padded"), default="packed" if on_gpu else "padded")
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--max-rows", type=int, default=48)
    parser.add_argument("--device", default="cuda:0" if on_gpu else "cpu")
    parser.add_argument("--bound", type=int, default=64, help="MiB of growth that are allowed")
    return parser.parse_args()


def memory_mib(device: str) -> int:
    """MiB in use on the device, or by this process on a CPU."""
    if device != "cpu":
        free, total = torch.cuda.mem_get_info(device)
        return (total - free) >> 20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def random_batch(random: np.random.Generator, max_rows: int) -> list[EncodeRequest]:
    """Up to `max_rows` rows of up to 512 tokens, every shape as likely as any."""
    longest = int(random.integers(2, MAX_TOKENS + 1))
    sizes = random.integers(1, longest + 1, int(random.integers(1, max_rows + 1)))
    return [
        EncodeRequest(id=number, token_ids=random.integers(*_VOCAB, size, dtype=np.int32))
        for number, size in enumerate(sizes)
    ]


def curve(engine: QueuedEncoder, args: argparse.Namespace, say: Callable[[str], None]) -> list[int]:
    """MiB after every tenth of the batches."""
    random, found, start = np.random.default_rng(0), [], time.perf_counter()
    every = max(1, args.batches // 10)
    for number in range(1, args.batches + 1):
        engine.collect(engine.launch(random_batch(random, args.max_rows)))
        if number % every == 0:
            found.append(memory_mib(args.device))
            say(f"{number:>7} batches {time.perf_counter() - start:7.1f} s {found[-1]:>7} MiB")
    return found


def main() -> int:
    args = parse_args()
    quieten()
    with tempfile.TemporaryDirectory() as folder:
        write_model(args.shape, Path(folder) / "model")
        sides = Sides(Path(folder) / "model", args.device, torch.float32)
        engine = sides.onnx_packed_engine() if args.form == "packed" else sides.onnx_padded_engine()
        print(f"{args.shape} on {args.device}, {engine.describe()['form']}: {memory_mib(args.device)} MiB at the start")
        found = curve(engine, args, lambda line: print(line, flush=True))
    growth = found[-1] - found[0]
    print(f"Growth after the first tenth: {growth} MiB, allowed {args.bound}")
    return int(growth > args.bound)


if __name__ == "__main__":
    sys.exit(main())
