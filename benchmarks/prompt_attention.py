"""Attention of prompt chunks alone: TFLOP/s by what is computed and what lies before it, over paged keys and values.

    python benchmarks/prompt_attention.py                                   # Llama-8B's heads: 32, 8, 128
    python benchmarks/prompt_attention.py --heads 16 --kv-heads 8 --dim 256

Our general kernel, the one for Hopper cards, torch's flash attention over keys side by side, and the card's matrix
products. Half of a chunk's own keys count, as a causal mask shows them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from parquetry.workers.packed.attention.call import AttentionCall, AttentionSpec, AttentionStep, PrefillTensors

#: (tokens, tokens before) of each chunk of a step
CASES = {
    "2k": [(2048, 0)],
    "8k": [(8448, 0)],
    "8k after 8k": [(8448, 8448)],
    "8k after 17k": [(8448, 16896)],
    "2k after 22k": [(2048, 22000)],
    "21 x 400": [(400, 0)] * 21,
    "60 x 125 after 1k": [(125, 1000)] * 60,
}
BLOCK_SIZE = 32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--dim", type=int, default=128)
    return parser.parse_args()


def int32(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device="cuda")


def make_call(chunks: list[tuple[int, int]], args: argparse.Namespace) -> AttentionCall:
    """Random queries, keys and values in bfloat16; the blocks of a sequence lie in no order."""
    query_lens, contexts = [count for count, _ in chunks], [sum(chunk) for chunk in chunks]
    width = -(-max(contexts) // BLOCK_SIZE)
    tables = torch.randperm(len(chunks) * width, device="cuda").view(len(chunks), width).int()

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    caches = (random(tables.numel(), args.kv_heads, BLOCK_SIZE, args.dim) for _ in range(2))
    k, v = (random(sum(query_lens), args.kv_heads, args.dim) for _ in range(2))
    lanes, lens = int32(list(range(len(chunks)))), int32(contexts)
    starts = int32([0, *query_lens]).cumsum(0).int()
    prefill = PrefillTensors(starts, max(query_lens), lens, lanes, False, query_lens, contexts)
    slots = torch.empty(0, dtype=torch.int64, device="cuda")
    step = AttentionStep(slots, tables, BLOCK_SIZE, 0, lanes[:0], lens[:0], prefill)
    return AttentionCall(random(len(k), args.heads, args.dim), k, v, *caches, step, AttentionSpec(args.dim**-0.5))


def torch_flash(call: AttentionCall) -> Tensor:
    """Torch's flash attention of the first chunk; its keys and values are not gathered, but take the caches' place."""
    count, context = call.prefill.query_lens[0], call.prefill.host_context_lens[0]
    k, v = (cache.view(-1, *call.k.shape[1:])[:context] for cache in (call.k_cache, call.v_cache))
    op = torch.ops.aten._flash_attention_forward
    lens = call.prefill.cu_seqlens[:2], int32([0, context])
    return op(call.q[:count], k, v, *lens, count, context, 0.0, True, False, scale=call.spec.scale)[0]


def operations(chunks: list[tuple[int, int]], args: argparse.Namespace) -> float:
    """Floating-point operations of the two products."""
    return 4.0 * args.heads * args.dim * sum(count * before + count * (count + 1) / 2 for count, before in chunks)


def sides() -> dict[str, Callable[[AttentionCall], Tensor]]:
    from parquetry.workers.packed.attention.kernels.hopper_prefill import hopper_prefill
    from parquetry.workers.packed.attention.kernels.paged_prefill import paged_prefill

    return {"general": paged_prefill, "hopper": hopper_prefill, "torch": torch_flash}


def rate(side: Callable[[AttentionCall], Tensor], chunks: list[tuple[int, int]], args: argparse.Namespace) -> str:
    from triton.testing import do_bench

    if side is torch_flash and len(chunks) > 1:
        return ""
    call = make_call(chunks, args)
    milliseconds = do_bench(lambda: side(call), warmup=15, rep=60, return_mode="median")
    return f"{operations(chunks, args) / milliseconds / 1e9:.0f}"


def main() -> None:
    from triton.testing import do_bench

    args = parse_args()
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    print(f"{torch.cuda.get_device_name()}, matrix products {2 * 8192**3 / do_bench(lambda: a @ b) / 1e9:.0f} TFLOP/s")
    print("| TFLOP/s | " + " | ".join(CASES) + " |")
    print("|---" * (len(CASES) + 1) + "|")
    for name, side in sides().items():
        print(f"| {name} | " + " | ".join(rate(side, chunks, args) for chunks in CASES.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
