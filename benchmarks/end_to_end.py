"""What the product costs on top of its engine: Parquet in, queue, worker, Parquet out, beside the engine alone.

    python benchmarks/end_to_end.py                              # Qwen3-0.6B shape, 4,096 rows
    python benchmarks/end_to_end.py --model llama-8b --rows 1024

The same rows, the same weights, the same token counts. The engine alone gets token ids and gives token ids back, in a
process of its own; the product starts from text in Parquet and ends with text in Parquet, on a worker that has loaded
its model. Target: the product loses at most 5%.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from fleet import fleet  # noqa: E402

TEXT = HERE / "quality_text.txt"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen3-0.6b", help="a shape of benchmarks/models.py")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--cpu", action="store_true", help="dry run with the tiny shape")
    parser.add_argument("--engine-alone", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_checkpoint(name: str, folder: Path) -> None:
    """Random weights that never end a row by themselves, and a tokenizer with a text for every id."""
    from models import make_model

    model = make_model(name)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    write_tokenizer(folder, model.config.vocab_size)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Byte-level pieces learnt from a text, then numbered ones that nothing is split into, up to the model's size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([str(TEXT)], trainers.BpeTrainer(vocab_size=8000, initial_alphabet=alphabet, show_progress=False))
    data = json.loads(tokenizer.to_str())
    vocab = data["model"]["vocab"]
    vocab.update({f"<{number}>": number for number in range(len(vocab), vocab_size)})
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")


def write_rows(path: Path, num_rows: int) -> None:
    """Texts cut from one text at seeded places, lognormal lengths, about 400 tokens on average."""
    random = np.random.default_rng(3)
    words = TEXT.read_text(encoding="utf-8").split()
    lens = np.clip(random.lognormal(5.2, 0.8, num_rows), 8, 1500).astype(int)
    starts = random.integers(0, len(words), num_rows)
    texts = [" ".join(words[(at + i) % len(words)] for i in range(n)) for at, n in zip(starts, lens, strict=True)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=256)


def job(
    folder: Path, name: str, args: argparse.Namespace, *, limit: int | None = None, shard_rows: int | None = None
) -> dict:
    """The spec of one job over the rows."""
    return {
        "task": "generate",
        "input": {"path": str(folder / "rows.parquet"), "limit": limit},
        "output": {"path": str(folder / name), "keep": []},
        "model": {"id": str(folder / "model")},
        "prompt": {"template": "{{ text }}", "chat": False},
        "generation": {"max_new_tokens": args.new_tokens},
        "shards": {"rows": shard_rows or args.shard_rows},
    }


def engine_alone(folder: Path, args: argparse.Namespace) -> dict:
    """Seconds of the rows through the engine that the product loads, as ready-made token ids, after a warm-up."""
    from parquetry.schemas.spec.job import ModelSpec
    from parquetry.workers.engine_spec import EngineSpec
    from parquetry.workers.hosting.engine_choice import load_engine
    from parquetry.workers.request import GenerationRequest, SamplingParams

    model = str(folder / "model")
    spec = EngineSpec(
        task="generate", model_path=model, model=ModelSpec(id=model), device="cpu" if args.cpu else "cuda:0"
    )
    engine = load_engine(spec)
    texts = pq.read_table(folder / "rows.parquet")["text"].to_pylist()
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    prompts = [np.asarray(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch(texts)]
    params = SamplingParams(max_new_tokens=args.new_tokens)
    for round_prompts in (prompts[:64], prompts):
        num_tokens, start = 0, time.perf_counter()
        engine.add([GenerationRequest(id=i, prompt_ids=ids, params=params) for i, ids in enumerate(round_prompts)])
        while engine.num_unfinished:
            num_tokens += sum(len(completion.output_ids) for completion in engine.step())
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "prompt_tokens": sum(map(len, prompts)), "output_tokens": num_tokens}


def measure_engine(folder: Path) -> dict:
    """`engine_alone` in a process of its own, so that the worker finds the card empty."""
    command = [sys.executable, __file__, *sys.argv[1:], "--engine-alone", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_product(folder: Path, args: argparse.Namespace) -> dict:
    """Seconds from submit to done of the second job of a worker; the first one loads the model."""
    with fleet(folder, gpus="none" if args.cpu else "0") as one:
        first_s = one.seconds(job(folder, "first", args, limit=min(args.rows, 64)))
        seconds = one.seconds(job(folder, "out", args))
    output = pq.read_table(folder / "out", columns=["row", "output_tokens", "error"])
    assert sorted(output["row"].to_pylist()) == list(range(args.rows))
    assert output["error"].null_count == args.rows, output["error"].drop_null()[0]
    num_tokens = sum(output["output_tokens"].to_pylist())
    return {"seconds": seconds, "output_tokens": num_tokens, "first_job_s": first_s}


def main() -> None:
    args = parse_args()
    if args.engine_alone:
        print(json.dumps(engine_alone(args.engine_alone, args)), flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint("tiny" if args.cpu else args.model, folder / "model")
        write_rows(folder / "rows.parquet", args.rows)
        alone = measure_engine(folder)
        print(f"engine alone: {alone['seconds']:.2f} s, {alone}", flush=True)
        try:
            product = measure_product(folder, args)
        finally:
            print((folder / "worker.log").read_text()[-3000:], file=sys.stderr)
        print(f"product: {product['seconds']:.2f} s from submit to done, {product}")
        loss = 1 - alone["seconds"] / product["seconds"]
        print(f"loss: {loss:.1%} over {args.rows} rows in shards of {args.shard_rows}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
