"""The demo's rows through both generation engines on this machine: packed, and padded batches sorted by length.

    make demo && python benchmarks/demo.py --rows 32

Real model, real prompts, greedy; both engines load once and run in turn, the last round counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine import Engine
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.hosting.engine_choice import load_engine
from parquetry.workers.request import GenerationRequest, SamplingParams

MODEL = Path("data/models/SmolLM2-135M-Instruct")
TABLE = Path("data/docstrings.parquet")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def requests(num_rows: int, new_tokens: int) -> list[GenerationRequest]:
    """One request a docstring."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    texts = pq.read_table(TABLE, columns=["text"])["text"].to_pylist()[:num_rows]
    ids = [np.asarray(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch(texts)]
    params = SamplingParams(max_new_tokens=new_tokens)
    return [GenerationRequest(id=row, prompt_ids=prompt, row=row, params=params) for row, prompt in enumerate(ids)]


def load(backend: str) -> Engine:
    """The engine a job with this `model.backend` gets on the CPU."""
    spec = EngineSpec(task="generate", model_path=str(MODEL), model=ModelSpec(id=str(MODEL), backend=backend))
    return load_engine(spec)


def run(engine: Engine, batch: list[GenerationRequest]) -> tuple[float, int]:
    """Seconds, and tokens put out."""
    start, num_tokens = time.perf_counter(), 0
    engine.add(batch)
    while engine.num_unfinished:
        num_tokens += sum(len(result.output_ids) for result in engine.step())
    return time.perf_counter() - start, num_tokens


def main() -> None:
    args = parse_args()
    engines = {backend: load(backend) for backend in ("packed", "transformers")}
    batch = requests(args.rows, args.new_tokens)
    best: dict[str, tuple[float, int]] = {}
    for _ in range(args.rounds):
        best = {backend: run(engine, batch) for backend, engine in engines.items()}
    for backend, (seconds, num_tokens) in best.items():
        print(f"{backend:13} {seconds:7.2f} s  {num_tokens / seconds:7.1f} output tok/s")
    print(f"packed / padded: {best['transformers'][0] / best['packed'][0]:.2f} times as fast, {args.rows} rows")


if __name__ == "__main__":
    main()
