"""Seeded workloads for the generation benchmark: token ids in, output lengths that no engine is told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Workload:
    """Prompts, how many tokens each row turns out to have, and the limit a job file would state for all of them."""

    name: str
    model: str
    prompts: list[list[int]]
    output_lens: list[int]
    max_new_tokens: int
    #: tokens at the start of every prompt that all rows share
    shared_prefix: int = 0
    #: what both sides make of the weights at load
    quantization: str = "none"

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def num_output_tokens(self) -> int:
        return sum(self.output_lens)


def nano(num_rows: int = 256, vocab: int = 10000) -> Workload:
    """nano-vllm's published benchmark: prompts and outputs uniform in 100..1024."""
    rng = random.Random(0)
    prompts = [[rng.randint(0, vocab) for _ in range(rng.randint(100, 1024))] for _ in range(num_rows)]
    return Workload("nano", "qwen3-0.6b", prompts, [rng.randint(100, 1024) for _ in range(num_rows)], 1024)


def clipped_lognormal(rng: random.Random, mu: float, sigma: float, low: int, high: int) -> int:
    """One length."""
    return max(low, min(high, int(rng.lognormvariate(mu, sigma))))


def offline(num_rows: int = 1024, vocab: int = 30000, name: str = "offline", model: str = "llama-8b") -> Workload:
    """A heavy-tailed job: lognormal prompts (mean about 400, cap 2,048) and outputs (mean about 200, cap 1,024)."""
    rng = random.Random(1)
    output_lens = [clipped_lognormal(rng, 4.9, 0.9, 4, 1024) for _ in range(num_rows)]
    lens = [clipped_lognormal(rng, 5.6, 0.9, 8, 2048) for _ in range(num_rows)]
    prompts = [[rng.randint(5, vocab) for _ in range(length)] for length in lens]
    return Workload(name, model, prompts, output_lens, 1024)


def prefix(num_rows: int = 2048, vocab: int = 30000) -> Workload:
    """One instruction of 1,000 tokens before rows of 50..200 tokens; outputs lognormal, mean about 60, cap 256."""
    rng = random.Random(2)
    instruction = [rng.randint(5, vocab) for _ in range(1000)]
    prompts = [instruction + [rng.randint(5, vocab) for _ in range(rng.randint(50, 200))] for _ in range(num_rows)]
    output_lens = [clipped_lognormal(rng, 3.8, 0.8, 4, 256) for _ in range(num_rows)]
    return Workload("prefix", "llama-8b", prompts, output_lens, 256, shared_prefix=1000)


def moe(num_rows: int = 1024) -> Workload:
    """The rows of `offline` through many small experts."""
    return offline(num_rows, name="moe", model="qwen3-moe")


def fp8(num_rows: int = 1024) -> Workload:
    """The rows of `offline` with weights and activations of 8 bits."""
    return replace(offline(num_rows), name="fp8", quantization="fp8")


def int4(num_rows: int = 1024) -> Workload:
    """The rows of `offline` with weights of 4 bits, as GPTQ stores them in groups of 128."""
    return replace(offline(num_rows), name="int4", quantization="int4")


def gpt_oss(num_rows: int = 1024) -> Workload:
    """The rows of `offline` through few large experts, attention with sinks, and windows in every other layer."""
    return offline(num_rows, name="gpt-oss", model="gpt-oss")


def deepseek(num_rows: int = 256) -> Workload:
    """Rows as in `offline` through three layers of DeepSeek-V3, of which two have 256 experts and a shared one."""
    return offline(num_rows, name="deepseek", model="deepseek")


def long(num_rows: int = 48, vocab: int = 30000) -> Workload:
    """Few rows with much to read: prompts uniform in 4,000..24,000, outputs uniform in 50..400."""
    rng = random.Random(4)
    prompts = [[rng.randint(5, vocab) for _ in range(rng.randint(4000, 24000))] for _ in range(num_rows)]
    return Workload("long", "llama-8b-32k", prompts, [rng.randint(50, 400) for _ in range(num_rows)], 400)


WORKLOADS: dict[str, Callable[..., Workload]] = {
    "nano": nano,
    "offline": offline,
    "prefix": prefix,
    "moe": moe,
    "fp8": fp8,
    "int4": int4,
    "gpt-oss": gpt_oss,
    "deepseek": deepseek,
    "long": long,
}
