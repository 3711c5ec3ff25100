"""Rate of the Llama-8B shape's matrix products by tokens of a step, in shuffled order on a warm card: where waves end.

python benchmarks/matmul_waves.py --tokens 4096 4224 4352 8192 8448 8576
"""

from __future__ import annotations

import argparse
import random
import statistics

import torch

SHAPES = ((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096))
ROUNDS, WARM_UP = 5, 200


def teraflops(weights: list[torch.Tensor], inputs: dict[int, torch.Tensor], num_tokens: int) -> float:
    """Of all products, one after the other, for about as long whatever the tokens."""
    repeats = max(1, 3 * 8192 // num_tokens)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]][:num_tokens], weight)
    end.record()
    end.synchronize()
    return 2 * sum(weight.numel() for weight in weights) * num_tokens * repeats / start.elapsed_time(end) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 4224, 4352, 8192, 8448, 8576])
    args = parser.parse_args()
    weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(3) for k, n in SHAPES]
    inputs = {k: torch.randn(max(args.tokens), k, device="cuda", dtype=torch.bfloat16) for k in (4096, 14336)}
    for number in range(WARM_UP):
        teraflops(weights, inputs, args.tokens[number % len(args.tokens)])
    found: dict[int, list[float]] = {count: [] for count in args.tokens}
    for _ in range(ROUNDS):
        for count in random.sample(args.tokens, len(args.tokens)):
            found[count].append(teraflops(weights, inputs, count))
    for count, rates in found.items():
        print(f"{count} tokens: {statistics.median(rates):.0f} TFLOP/s, {[round(rate) for rate in rates]}")


if __name__ == "__main__":
    main()
