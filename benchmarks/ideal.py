"""How long a generation workload takes at best: our schedule, on a card that reaches its two ceilings in every step.

    python benchmarks/ideal.py                                       # an H100: 3.018 TB/s, 714 TFLOP/s
    python benchmarks/ideal.py --bandwidth 4.3e12 --rate 790e12 --workloads offline

A step reads all weights once (of experts those that were chosen, evenly), or computes its products and the attention of
its prompts, whichever takes longer, and then reads keys and values; a prefix that all rows share is not read. Nothing
else takes time. The real scheduler decides the steps, on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models import (
    kv_bytes_read,
    make_config,
    num_layer_parameters,
    num_parameters,
    prompt_attention_operations,
    weight_bytes_read,
)
from workloads import WORKLOADS, Workload

from parquetry.workers.packed.options import PackedOptions
from parquetry.workers.packed.scheduling.batch import Batch
from parquetry.workers.packed.scheduling.blocks import BlockPool
from parquetry.workers.packed.scheduling.lanes import LaneTable
from parquetry.workers.packed.scheduling.scheduler import Scheduler
from parquetry.workers.packed.scheduling.sequence import Sequence
from parquetry.workers.packed.waves import tokens_of_whole_waves
from parquetry.workers.request import GenerationRequest, SamplingParams

BLOCK_SIZE, MAX_MODEL_LEN = 32, 32768


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--bandwidth", type=float, default=3.018e12, help="bytes a second")
    parser.add_argument("--rate", type=float, default=714e12, help="floating-point operations a second")
    parser.add_argument("--processors", type=int, default=132, help="multiprocessors of the card")
    parser.add_argument("--cache-tokens", type=int, default=470_000, help="tokens the KV cache holds")
    return parser.parse_args()


class IdealCard:
    """Seconds of a step of one workload."""

    def __init__(self, workload: Workload, args: argparse.Namespace) -> None:
        self.config = config = make_config(workload.model)
        self.layers = num_layer_parameters(config)
        self.head = num_parameters(config) - self.layers
        self.shared = workload.shared_prefix
        self.bandwidth, self.rate = args.bandwidth, args.rate

    def seconds(self, batch: Batch) -> float:
        operations = 2 * (self.layers * batch.num_tokens + self.head * len(batch.sampled_lanes))
        spans = [(chunk.start, chunk.stop) for chunk in batch.chunks]
        operations += prompt_attention_operations(self.config, np.asarray(spans).reshape(-1, 2))
        weights = weight_bytes_read(self.config, batch.num_tokens)
        products = max(weights / self.bandwidth, operations / self.rate)
        return products + kv_bytes_read(self.config, batch.positions + 1 - self.shared) / self.bandwidth


def kind_of(batch: Batch) -> str:
    if batch.chunks:
        return "with prompts"
    size = len(batch.decode_lanes)
    return "256 rows and more" if size >= 256 else "64-255 rows" if size >= 64 else "fewer rows"


def scheduler_of(workload: Workload, args: argparse.Namespace) -> Scheduler:
    """Ours, with the rows of the workload in its queue."""
    options, hidden_size = PackedOptions(), make_config(workload.model).hidden_size
    scheduler = Scheduler(
        BlockPool(args.cache_tokens // BLOCK_SIZE, BLOCK_SIZE),
        LaneTable(options.num_lanes, MAX_MODEL_LEN // BLOCK_SIZE),
        token_budget=options.token_budget,
        max_model_len=MAX_MODEL_LEN,
        full_step=tokens_of_whole_waves(args.processors, hidden_size),
        prefix_cache=workload.shared_prefix > 0,
    )
    params = SamplingParams(max_new_tokens=workload.max_new_tokens)
    for index, ids in enumerate(workload.prompts):
        prompt = np.asarray(ids, dtype=np.int32)
        scheduler.add(Sequence(GenerationRequest(id=index, prompt_ids=prompt, params=params)))
    return scheduler


def play(workload: Workload, args: argparse.Namespace) -> tuple[Counter[str], Counter[str]]:
    """Seconds and number of steps by kind; the scheduler is one step ahead, as it is of a card."""
    scheduler, card = scheduler_of(workload, args), IdealCard(workload, args)
    lens, lanes = np.asarray(workload.output_lens), scheduler.lane_table
    seconds, steps, launched = Counter[str](), Counter[str](), deque()
    while scheduler.num_unfinished:
        batch = scheduler.schedule()
        if batch is not None:
            seconds[kind_of(batch)] += card.seconds(batch)
            steps[kind_of(batch)] += 1
            launched.append((batch.sampled_lanes, lanes.epoch[batch.sampled_lanes]))
        if len(launched) > 1 or batch is None:
            collect(scheduler, *launched.popleft(), lens)
    return seconds, steps


def collect(scheduler: Scheduler, sampled: np.ndarray, epochs: np.ndarray, lens: np.ndarray) -> None:
    """A token for each lane that is still whose it was; rows at their length are done."""
    lanes = scheduler.lane_table
    sampled = sampled[lanes.epoch[sampled] == epochs]
    lanes.append(sampled, np.ones(len(sampled), dtype=np.int32), None)
    for lane in sampled[lanes.num_outputs[sampled] >= lens[lanes.request_id[sampled]]].tolist():
        scheduler.release(lanes.sequences[lane])


def main() -> None:
    args = parse_args()
    for name in args.workloads:
        seconds, steps = play(WORKLOADS[name](), args)
        parts = ", ".join(f"{kind} {seconds[kind]:.2f} s in {steps[kind]}" for kind in sorted(steps, reverse=True))
        print(f"{name}: {seconds.total():.2f} s in {steps.total()} steps: {parts}")


if __name__ == "__main__":
    main()
