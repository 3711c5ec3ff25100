"""What our queue costs on top of vLLM: Parquet to Parquet, beside `vllm run-batch` and `LLM.generate` on the same rows.

    python benchmarks/vllm_backend.py                            # Qwen3-0.6B shape, 4,096 rows
    python benchmarks/vllm_backend.py --model llama-8b --rows 1024
    python benchmarks/vllm_backend.py --kill                     # with a kill -9 of the engine in the middle

Runs in vLLM's environment. All sides have the same weights, texts, token counts and vLLM arguments; greedy, no row ends
by itself. `LLM.generate` has its model loaded, and so has our worker; `run-batch` pays for its start.
Target: our engine and queue lose at most 3% of what `LLM.generate` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from end_to_end import job, write_checkpoint, write_rows  # noqa: E402
from fleet import fleet  # noqa: E402

SETTINGS = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
#: as our worker starts it on a card
ARGUMENTS = {"dtype": "bfloat16", "max_model_len": 4096, "gpu_memory_utilization": 0.9, "enable_prefix_caching": True}
ENGINE = b"parquetry.workers.hosting.process"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="qwen3-0.6b", help="a shape of benchmarks/models.py")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--shard-rows", type=int, default=1024)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--kill", action="store_true", help="kill -9 the engine when a third of the shards are done")
    parser.add_argument("--cpu", action="store_true", help="dry run with the tiny shape; its figures mean nothing")
    parser.add_argument("--llm-alone", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def llm_alone(folder: Path, args: argparse.Namespace) -> dict:
    """Seconds of `LLM.generate` from texts to texts in a process of its own, after a warm-up."""
    from vllm import LLM, SamplingParams

    begin = time.perf_counter()
    options = {**ARGUMENTS, "dtype": "float32", "enforce_eager": True} if args.cpu else ARGUMENTS
    llm = LLM(model=str(folder / "model"), generation_config="vllm", **options)
    startup = time.perf_counter() - begin
    texts = pq.read_table(folder / "rows.parquet")["text"].to_pylist()
    params = SamplingParams(temperature=0.0, max_tokens=args.new_tokens, ignore_eos=True)
    for part in (texts[:64], texts):
        llm.reset_prefix_cache()
        begin = time.perf_counter()
        done = llm.generate(part, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
    tokens = sum(len(row.outputs[0].token_ids) for row in done)
    return {"seconds": seconds, "startup_s": startup, "output_tokens": tokens}


def run_llm(folder: Path, args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, *sys.argv[1:], "--llm-alone", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **SETTINGS})
    return json.loads(done.stdout.splitlines()[-1])


def run_batch(folder: Path, args: argparse.Namespace) -> dict:
    """Seconds of `vllm run-batch` from start to end, start-up included, and from its first request on."""
    requests = folder / "requests.jsonl"
    texts = pq.read_table(folder / "rows.parquet")["text"].to_pylist()
    with requests.open("w") as sink:
        for row, text in enumerate(texts):
            body = {
                "model": str(folder / "model"),
                "messages": [{"role": "user", "content": text}],
                "max_completion_tokens": args.new_tokens,
                "temperature": 0,
                "ignore_eos": True,
            }
            asked = {"custom_id": str(row), "method": "POST", "url": "/v1/chat/completions", "body": body}
            sink.write(json.dumps(asked) + "\n")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(requests)]
    command += ["-o", str(folder / "answers.jsonl"), "--model", str(folder / "model"), "--generation-config", "vllm"]
    command += ["--dtype", "bfloat16", "--max-model-len", "4096", "--gpu-memory-utilization", "0.9"]
    (folder / "chat.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    command += ["--chat-template", str(folder / "chat.jinja")]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **SETTINGS}, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        return {"error": done.stderr.strip()[-400:]}
    answers = [json.loads(line)["response"]["body"] for line in (folder / "answers.jsonl").read_text().splitlines()]
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return {"seconds": seconds, "output_tokens": tokens, "note": "start-up included"}


def run_queue(folder: Path, args: argparse.Namespace) -> dict:
    """Seconds from submit to done of a worker's second job; with --kill its engine is struck in the middle."""
    backend = {"model": {"id": str(folder / "model"), "backend": "vllm", "dtype": "auto"}}
    with fleet(folder, gpus="none" if args.cpu else "0", queues="vllm", settings=SETTINGS) as one:
        first = one.seconds({**job(folder, "first", args, limit=min(args.rows, 64)), **backend})
        struck = strike_later(folder, args) if args.kill else iter(())
        seconds = one.seconds({**job(folder, "out", args), **backend})
    output = pq.read_table(folder / "out", columns=["row", "output_tokens", "error"])
    assert sorted(output["row"].to_pylist()) == list(range(args.rows)), "a row is lost or doubled"
    assert output["error"].null_count == args.rows, output["error"].drop_null()[0]
    told = {"killed": list(struck)} if args.kill else {}
    tokens = sum(output["output_tokens"].to_pylist())
    return {"seconds": seconds, "first_job_s": first, "output_tokens": tokens, **told}


def strike_later(folder: Path, args: argparse.Namespace) -> Iterator[int]:
    """Kills the engine once a third of the parts are there, from a thread; gives the process ids that it struck."""
    due, struck = max(1, args.rows // args.shard_rows // 3), list[int]()

    def watch() -> None:
        while len(list((folder / "out").glob("part-*.parquet"))) < due:
            time.sleep(0.05)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if ENGINE in line and re.search(re.escape(str(folder)).encode(), line):
                os.kill(int(process.name), signal.SIGKILL)
                struck.append(int(process.name))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return iter(struck)


SIDES = {"LLM.generate": run_llm, "run-batch": run_batch, "parquetry": run_queue}


def main() -> None:
    args = parse_args()
    if args.llm_alone:
        print(json.dumps(llm_alone(args.llm_alone, args)), flush=True)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint("tiny" if args.cpu else args.model, folder / "model")
        write_rows(folder / "rows.parquet", args.rows)
        found = {}
        for side in args.sides:
            found[side] = SIDES[side](folder, args)
            print(f"{side}: {found[side]}", flush=True)
    if {"LLM.generate", "parquetry"} <= found.keys():
        loss = 1 - found["LLM.generate"]["seconds"] / found["parquetry"]["seconds"]
        print(f"lost to our engine and queue: {loss:.1%} over {args.rows} rows in shards of {args.shard_rows}")


if __name__ == "__main__":
    main()
