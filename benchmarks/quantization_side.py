"""One quantization of one model on the packed engine; quantization.py starts it and reads the last line it prints."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.loading.model import load_model
from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.packed_engine import PackedEngine
from parquetry.workers.request import GenerationRequest, SamplingParams

GIB = 1 << 30
PREFILL_TOKENS = 256
DECODE_PROMPT, DECODE_TOKENS = 16, 64
ROUNDS = 2


def allocated_gib() -> float:
    """Device memory in use by tensors."""
    return torch.cuda.memory_allocated() / GIB if torch.cuda.is_available() else 0.0


class Stopwatch:
    """Runs batches of random prompts through one engine."""

    def __init__(self, engine: PackedEngine) -> None:
        self.engine = engine
        self.vocab_size = engine.model.config.vocab_size
        self.rng = np.random.default_rng(0)

    def seconds(self, batch: int, prompt_tokens: int, new_tokens: int) -> float:
        """Seconds until `batch` prompts have their `new_tokens` tokens each; the best of some rounds."""
        params = SamplingParams(max_new_tokens=new_tokens)
        best = float("inf")
        for _ in range(ROUNDS):
            prompts = self.rng.integers(0, self.vocab_size, (batch, prompt_tokens)).astype(np.int32)
            start = time.perf_counter()
            self.engine.add([GenerationRequest(id=i, prompt_ids=ids, params=params) for i, ids in enumerate(prompts)])
            while self.engine.num_unfinished:
                self.engine.step()
            best = min(best, time.perf_counter() - start)
        return best

    def rates(self, batch: int) -> dict[str, float]:
        """Tokens per second of prefill and of decode at one batch size."""
        prefill = self.seconds(batch, PREFILL_TOKENS, 1)
        first = self.seconds(batch, DECODE_PROMPT, 1)
        whole = self.seconds(batch, DECODE_PROMPT, 1 + DECODE_TOKENS)
        return {"prefill": batch * PREFILL_TOKENS / prefill, "decode": batch * DECODE_TOKENS / (whole - first)}

    def end_to_end(self, rows: int) -> float:
        """Output tokens per second of `rows` rows with both phases."""
        return rows * DECODE_TOKENS / self.seconds(rows, PREFILL_TOKENS, DECODE_TOKENS)


def load(folder: Path, quantization: str, device: str) -> torch.nn.Module:
    """The model as a job would get it."""
    model = ModelSpec(id=str(folder), quantization=quantization, dtype="bfloat16", backend="packed")
    spec = EngineSpec(task="generate", model_path=str(folder), model=model, device=device)
    return load_model(spec, Checkpoint.resolve(model), AutoModelForCausalLM)


def main() -> None:
    quantization, folder, batches, compiled = sys.argv[1:]
    sizes = [int(size) for size in batches.split(",")]
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    start = time.perf_counter()
    model = load(Path(folder), quantization, device)
    report: dict[str, Any] = {"quantization": quantization, "weights_gib": allocated_gib()}
    num_blocks = max(sizes) * 512 // 16
    options = PackedOptions(
        max_num_seqs=max(sizes), num_blocks=num_blocks, block_size=16, max_model_len=512,
        compile=compiled == "True", prefix_cache=False,
    )  # fmt: skip
    engine = PackedEngine(model, None, (), options)
    stopwatch = Stopwatch(engine)
    stopwatch.seconds(max(sizes), PREFILL_TOKENS, 2)
    report |= {"startup_s": time.perf_counter() - start, "graphs": engine.runner.graphs is not None}
    # Start-ups overlap, measurements take turns.
    (Path(folder) / f"ready-{quantization}").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)
    with open(Path(folder) / "turn", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        report["rates"] = {str(size): stopwatch.rates(size) for size in sizes}
        report["end_to_end"] = stopwatch.end_to_end(max(sizes))
    if torch.cuda.is_available():
        report["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    print(json.dumps(report))


if __name__ == "__main__":
    main()
