"""What a grammar costs: the same rows free and under a JSON schema, in one engine, one after the other.

    python benchmarks/grammar.py                                     # Qwen3-0.6B shape, 256 rows
    python benchmarks/grammar.py --model llama-8b --rows 256
    python benchmarks/grammar.py --cpu --rows 8 --new-tokens 8

Random weights, so a document is not closed within the limit: every row has the same number of tokens on both sides.
Most of it is a string of any text, whose masks allow the most tokens. Target: at most 10% slower than free.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from end_to_end import write_tokenizer
from models import make_model
from tokenizers import Tokenizer

from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import GenerationRequest, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["summary", "score"],
    "additionalProperties": False,
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen3-0.6b", help="a shape of benchmarks/models.py")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=300, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="dry run with the tiny shape")
    return parser.parse_args()


class TimedEngine(PackedEngine):
    """Adds up the seconds that the host takes for masks; the device computes meanwhile."""

    mask_s = 0.0

    def _allow(self, lanes: np.ndarray) -> torch.Tensor:
        self._collect_pending()
        start = time.perf_counter()
        masks = super()._allow(lanes)
        self.mask_s += time.perf_counter() - start
        return masks


def load(args: argparse.Namespace) -> TimedEngine:
    """An engine with random weights and a tokenizer that has a text for every id."""
    model = make_model("tiny" if args.cpu else args.model)
    with tempfile.TemporaryDirectory() as name:
        write_tokenizer(Path(name), model.config.vocab_size)
        tokenizer = Tokenizer.from_file(f"{name}/tokenizer.json")
    return TimedEngine(model, tokenizer, (), PackedOptions(max_num_seqs=args.rows))


def seconds_of(engine: TimedEngine, args: argparse.Namespace, grammar: str | None) -> float:
    """One round over fresh prompts."""
    random = np.random.default_rng()
    vocab_size = engine.model.config.vocab_size
    params = SamplingParams(max_new_tokens=args.new_tokens, grammar=grammar)
    prompts = [random.integers(0, vocab_size, args.prompt).astype(np.int32) for _ in range(args.rows)]
    start = time.perf_counter()
    engine.add([GenerationRequest(id=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
    num_tokens = 0
    while engine.num_unfinished:
        for completion in engine.step():
            assert completion.error is None, completion.error
            num_tokens += len(completion.output_ids)
    assert num_tokens == args.rows * args.new_tokens, f"{num_tokens} tokens: some rows ended early"
    return time.perf_counter() - start


def main() -> None:
    args = parse_args()
    engine = load(args)
    text = Grammar("json_schema", SCHEMA).text
    for grammar in (None, text):
        seconds_of(engine, args, grammar)
    engine.mask_s = 0.0
    free, bound = [], []
    for _ in range(args.rounds):
        free.append(seconds_of(engine, args, None))
        bound.append(seconds_of(engine, args, text))
    ratio = statistics.median(bound) / statistics.median(free)
    num_tokens, masks_ms = args.rows * args.new_tokens, 1e3 * engine.mask_s / args.rounds / args.new_tokens
    for name, rounds in (("free", free), ("schema", bound)):
        middle = statistics.median(rounds)
        print(f"{name}: {middle:.2f} s, {num_tokens / middle:,.0f} tok/s, rounds {[round(s, 2) for s in rounds]}")
    print(
        f"schema / free: {ratio:.3f}; masks take {masks_ms:.2f} ms of {os.cpu_count()} cores a step, beside the device"
    )


if __name__ == "__main__":
    main()
