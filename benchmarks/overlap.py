"""What prefill and decode would gain from running side by side: one is bound by arithmetic, the other by memory.

    python benchmarks/overlap.py --model llama-8b --batch 256 --context 600

Prints the time of both alone, then of both at once: on two streams, and on two streams that own parts of the card's
multiprocessors (green contexts). A gain of 1.0 means that the card did nothing twice as well as it does in turn.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from decode_profile import steady_batch
from models import make_model

from workers.packed.engine import PackedEngine
from workers.packed.options import PackedOptions
from workers.packed.sampler import SamplingMode

#: larger than CUdevResource of any driver
_RESOURCE_BYTES = 1024
_SM_RESOURCE, _DEFAULT_STREAM, _NON_BLOCKING = 1, 1, 1


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="llama-8b")
    parser.add_argument("--batch", type=int, default=256, help="sequences that decode")
    parser.add_argument("--context", type=int, default=600)
    parser.add_argument("--chunk", type=int, default=8192, help="tokens of one prefill step")
    parser.add_argument("--prefills", type=int, default=6)
    parser.add_argument("--parts", type=int, nargs="*", default=[24, 40, 56], help="multiprocessors for decode")
    return parser.parse_args()


def driver_call(name: str, *arguments: object) -> None:
    """One function of the CUDA driver. Raises RuntimeError with its error number."""
    status = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    if status:
        raise RuntimeError(f"{name} failed with {status}")


def split_streams(num_sms: int) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """A stream on `num_sms` multiprocessors, and one on all the others."""
    whole, part, rest = (ctypes.create_string_buffer(_RESOURCE_BYTES) for _ in range(3))
    count = ctypes.c_uint(1)
    driver_call("cuDeviceGetDevResource", 0, whole, _SM_RESOURCE)
    driver_call("cuDevSmResourceSplitByCount", part, ctypes.byref(count), whole, rest, 0, num_sms)
    return green_stream(part, priority=-1), green_stream(rest, priority=0)


def green_stream(resource: ctypes.Array, *, priority: int) -> torch.cuda.Stream:
    """A stream whose kernels run on the multiprocessors of `resource` alone."""
    description, context, stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    driver_call("cuDevResourceGenerateDesc", ctypes.byref(description), resource, 1)
    driver_call("cuGreenCtxCreate", ctypes.byref(context), description, 0, _DEFAULT_STREAM)
    driver_call("cuGreenCtxStreamCreate", ctypes.byref(stream), context, _NON_BLOCKING, priority)
    return torch.cuda.ExternalStream(stream.value)


class Work:
    """Prefill and decode steps of one engine, on whatever stream is current."""

    def __init__(self, engine: PackedEngine, args: argparse.Namespace) -> None:
        self.engine, self.args = engine, args
        self.batch = steady_batch(engine, args.batch, args.context)

    @torch.inference_mode()
    def prefill(self) -> None:
        runner = self.engine.runner
        runner.run(runner.builder.rehearsal(self.args.chunk, 16, 512), SamplingMode.GREEDY)

    def decode(self) -> None:
        self.engine.runner.graphs.replay(self.batch, SamplingMode.GREEDY)

    def capture_on(self, stream: torch.cuda.Stream) -> None:
        """Capture the decode step again: a kernel in a graph stays on the multiprocessors it was captured for."""
        graphs = self.engine.runner.graphs
        graphs._graphs.clear()
        graphs._stream = stream
        self.decode()
        torch.cuda.synchronize()


def seconds(work: Callable[[], None], times: int) -> float:
    """Mean time of one call, several in flight."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def side_by_side(work: Work, decode: torch.cuda.Stream, prefill: torch.cuda.Stream) -> tuple[float, int]:
    """Seconds for all prefills, and how many decode steps ended meanwhile."""
    torch.cuda.synchronize()
    start, steps, last = time.perf_counter(), 0, torch.cuda.Event()
    for _ in range(work.args.prefills):
        with torch.cuda.stream(prefill):
            work.prefill()
            last.record()
        while not last.query():
            with torch.cuda.stream(decode):
                work.decode()
                done = torch.cuda.Event()
                done.record()
            steps += 1
            done.synchronize()
    torch.cuda.synchronize()
    return time.perf_counter() - start, steps


def report(name: str, work: Work, alone: tuple[float, float], streams: tuple) -> None:
    """The gain over doing the same in turn."""
    side_by_side(work, *streams)
    took, steps = side_by_side(work, *streams)
    in_turn = work.args.prefills * alone[0] + steps * alone[1]
    rate = work.args.prefills * work.args.chunk / took
    print(
        f"{name}: {took:.2f} s for {work.args.prefills} prefills ({rate:,.0f} tok/s) and {steps} decode steps "
        f"({took / max(steps, 1) * 1e3:.1f} ms each); in turn {in_turn:.2f} s, gain {in_turn / took:.2f}",
        flush=True,
    )


def main() -> None:
    args = parse_args()
    model = make_model(args.model)
    engine = PackedEngine(model, None, (), PackedOptions(max_num_seqs=args.batch, memory_fraction=0.7))
    work = Work(engine, args)
    alone = seconds(work.prefill, args.prefills), seconds(work.decode, 20)
    print(f"alone: prefill of {args.chunk} tokens {alone[0] * 1e3:.1f} ms, decode {alone[1] * 1e3:.2f} ms", flush=True)
    plain = torch.cuda.Stream(priority=-1), torch.cuda.Stream()
    report("two streams", work, alone, plain)
    for num_sms in args.parts:
        try:
            streams = split_streams(num_sms)
            work.capture_on(streams[0])
            report(f"{num_sms} multiprocessors for decode", work, alone, streams)
        except RuntimeError as error:
            print(f"{num_sms} multiprocessors for decode: {error}", flush=True)


if __name__ == "__main__":
    main()
