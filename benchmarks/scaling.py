"""Throughput of one machine's cards over the same rows: an engine a card (data), and one engine over all (tensor).

    python benchmarks/scaling.py                                   # qwen3-0.6b on 1, 2, 4 ... cards, both ways
    python benchmarks/scaling.py --model llama-8b --rows 2048 --ways tensor
    python benchmarks/scaling.py --cpu --cards 2 --model tiny --rows 8 --prompt 16 --output 8     # a dry run

Engines are the product's own processes under its supervisors, fed over their sockets. Weights are random; every row
has the same prompt length and limit. `of linear` is the rate over the rate of one card times the number of cards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from models import SHAPES, make_config
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.engine_spec import EngineSpec
from parquetry.workers.process.client import EngineClient
from parquetry.workers.process.supervisor import EngineSupervisor
from parquetry.workers.request import GenerationRequest, SamplingParams

#: in a process of its own, so that this one holds neither weights nor a CUDA context
_WRITE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from models import make_model
make_model(sys.argv[2]).save_pretrained(sys.argv[3])
"""
_COUNT = "import torch; print(torch.cuda.device_count())"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--ways", nargs="+", choices=["data", "tensor"], default=["data", "tensor"])
    parser.add_argument("--cards", type=int, default=0, help="most cards to use; 0 takes all")
    parser.add_argument("--cpu", action="store_true", help="engines and ranks on the CPU, to try the benchmark out")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt")
    parser.add_argument("--output", type=int, default=256, help="tokens of an output")
    parser.add_argument("--rounds", type=int, default=2, help="the last one counts")
    return parser.parse_args()


def write_model(name: str, folder: Path) -> None:
    """A checkpoint with random weights, and a tokenizer that nothing here asks."""
    here = str(Path(__file__).resolve().parent)
    subprocess.run([sys.executable, "-c", _WRITE, here, name, str(folder)], check=True, stdout=subprocess.DEVNULL)
    Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))


def count_cards() -> int:
    """CUDA devices of this machine, asked in another process, so that this one holds no CUDA context."""
    return int(subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True).stdout)


def sizes(most: int) -> list[int]:
    """1, 2, 4 and so on up to `most`."""
    return [count for count in (2**n for n in range(10)) if count <= most]


def device_names(way: str, count: int, kind: str) -> list[str]:
    """The devices of the engines: `count` of one card, or one of `count` cards."""
    if way == "tensor":
        return [kind if kind == "cpu" and count == 1 else f"{kind}:{','.join(map(str, range(count)))}"]
    return [kind if kind == "cpu" else f"{kind}:{number}" for number in range(count)]


def make_requests(args: argparse.Namespace, number: int, count: int) -> list[GenerationRequest]:
    """Every `count`-th row of the job, the first being `number`; prompts share no prefix."""
    vocab = make_config(args.model).vocab_size
    params = SamplingParams(max_new_tokens=args.output)
    prompts = np.random.default_rng(0).integers(5, vocab, (args.rows, args.prompt), dtype=np.int32)
    return [
        GenerationRequest(id=row, row=row, prompt_ids=prompts[row], params=params)
        for row in range(number, args.rows, count)
    ]


def drain(client: EngineClient, requests: Sequence[GenerationRequest]) -> int:
    """Serve the requests; returns the tokens that came out."""
    client.submit(requests)
    left, tokens = len(requests), 0
    while left:
        for result in client.results(1.0):
            if result.error:
                raise RuntimeError(result.error)
            left, tokens = left - 1, tokens + len(result.output_ids)
    return tokens


def measure(args: argparse.Namespace, devices: list[str], folder: Path) -> dict[str, object]:
    """Start an engine a device, run the rows through them together, and end them."""
    spec = EngineSpec(task="generate", model_path=str(folder), model=ModelSpec(id=str(folder)))
    with ExitStack() as stack:
        folders = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pq-bench-")))
        supervisors = [EngineSupervisor(device, folders / str(i)) for i, device in enumerate(devices)]
        for supervisor in supervisors:
            stack.callback(supervisor.stop)
            supervisor.start()
        clients = in_parallel(lambda i: EngineClient.connect(supervisors[i].socket, spec), len(devices))
        for client in clients:
            stack.callback(client.close)
        for number in range(args.rounds):
            shares = [make_requests(args, i, len(devices)) for i in range(len(devices))]
            if number:
                # other prompts than before, or the prefix cache would answer
                shares = [[fresh(request, number) for request in share] for share in shares]
            start = time.perf_counter()
            tokens = sum(in_parallel(lambda i, shares=shares: drain(clients[i], shares[i]), len(devices)))
            seconds = time.perf_counter() - start
        about = clients[0].describe()
    return {"seconds": seconds, "output_tokens": tokens, "tok_s": tokens / seconds, "about": about}


def fresh(request: GenerationRequest, number: int) -> GenerationRequest:
    """The request with another first token."""
    ids = request.prompt_ids.copy()
    ids[0] = (ids[0] + number) % 5000 + 5
    return GenerationRequest(id=request.id, row=request.row, prompt_ids=ids, params=request.params)


def in_parallel(call, count: int) -> list:
    """`call(i)` for every i below `count`, each in a thread of its own. Raises what the first of them raised."""
    found: dict[int, object] = {}

    def run(number: int) -> None:
        try:
            found[number] = call(number)
        except Exception as error:  # noqa: BLE001
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    return [found[number] for number in range(count)]


def main() -> None:
    args = parse_args()
    kind = "cpu" if args.cpu else "cuda"
    most = args.cards or (1 if args.cpu else count_cards())
    rates: dict[int, float] = {}
    print(f"{args.model}, {args.rows} rows of {args.prompt} and {args.output} tokens, on {kind}")
    print("| way | cards | seconds | output tok/s | of linear |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="pq-model-") as folder:
        write_model(args.model, Path(folder))
        for way in args.ways:
            for count in sizes(most):
                if count == 1 and rates:
                    continue
                report = measure(args, device_names(way, count, kind), Path(folder))
                rates.setdefault(1, report["tok_s"])
                share = report["tok_s"] / (count * rates[1])
                print(
                    f"| {way} | {count} | {report['seconds']:.2f} | {report['tok_s']:,.0f} | {share:.2f} |", flush=True
                )
                print(json.dumps({"way": way, "cards": count, **report}), file=sys.stderr)


if __name__ == "__main__":
    main()
