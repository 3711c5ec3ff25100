"""Encoder throughput: packed torch and ONNX Runtime beside padding, a pipeline, sentence-transformers and Optimum.

    python benchmarks/encoders.py                                    # this machine's device, MiniLM's shape on a CPU
                                                                     # on a GPU both BERTs, all lengths, 8 minutes
    python benchmarks/encoders.py --shapes tiny --rows 200 --lengths short

All sides run in one command on the same rows; the best of the timed rounds counts. `ids`: token ids in, logits out;
`text`: a library as its users call it, on texts that give the same ids, in a process of its own (--python NAME=PATH for
one with another environment); `files`: a job on a worker that has the model, Parquet to Parquet. On a GPU slow peers
get the first twelfth of the rows. Results are printed, and written, as they come; sides that no longer fit --minutes
are left out aloud.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from encoder_report import Report
from encoder_sides import SHAPES, Side, Sides, write_model
from encoder_table import PEER, Table
from texts import LENGTHS

from parquetry.workers.loading.model import quieten

HERE = Path(__file__).resolve().parent


def parse_args() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["bert-base", "bert-large"] if on_gpu else ["minilm"]
    )
    parser.add_argument(
        "--lengths", nargs="+", choices=LENGTHS, default=["mixed", "short", "long"] if on_gpu else ["mixed"]
    )
    parser.add_argument("--rows", type=int, help="of each table; by default what makes it long enough to time")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda:0" if on_gpu else "cpu")
    parser.add_argument("--sides", nargs="+", help="only these")
    parser.add_argument("--python", nargs="*", default=[], metavar="NAME=PATH", help="interpreters of peers")
    parser.add_argument(
        "--minutes", type=float, default=7.0 if on_gpu else 60.0, help="no side is begun later than this"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


class Benchmark:
    """Tables of one run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.kind = args, args.device.partition(":")[0]
        self.started = time.monotonic()
        rates = matmul_rate(args.device)
        self.rate = rates[0] if rates else None
        place = torch.cuda.get_device_name().replace(" ", "-") if rates else "CPU"
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M")
        self.report = Report(header(args, rates), args.out / f"encoders_{place}_{stamp}")
        self.pythons = dict(item.partition("=")[::2] for item in args.python)

    def run(self) -> None:
        """The first kind of texts for every shape, then the others, so that a cut run has compared what it can."""
        with tempfile.TemporaryDirectory() as folder:
            sides = {shape: self._sides(shape, Path(folder) / shape) for shape in self.args.shapes}
            for lengths in self.args.lengths:
                for shape in self.args.shapes:
                    is_first = lengths == self.args.lengths[0], shape == self.args.shapes[0]
                    if self.is_late(f"{shape}, {lengths} texts"):
                        continue
                    table = Table(self, shape, lengths, sides[shape])
                    table.run(with_libraries=any(is_first), with_files=all(is_first))

    def _sides(self, shape: str, folder: Path) -> Sides:
        write_model(shape, folder)
        dtype = torch.float32 if self.kind == "cpu" else torch.bfloat16
        sides = Sides(folder, self.args.device, dtype)
        sides.makers = self._makers(sides)
        if self.kind == "cuda" and has_onnx():
            sides.last = {
                "onnx, CPU": sides.on_cpu().onnx_padded,
                "onnx int8, CPU": lambda: sides.on_cpu().onnx_padded("int8"),
            }
        return sides

    def _makers(self, sides: Sides) -> dict[str, Callable[[], Side]]:
        """Name -> what makes the side, the peer first."""
        on_cpu = self.kind == "cpu"
        made = {
            PEER: lambda: sides.arrival(32 if on_cpu else 64),
            "padded, sorted": sides.sorted,
            "packed": sides.packed,
        }
        if has_onnx():
            if not on_cpu:
                made["onnx packed"] = sides.onnx_packed
            made["onnx padded, sorted"] = sides.onnx_padded
            made["onnx stock export, sorted"] = sides.onnx_stock
            if on_cpu:
                made["onnx int8, sorted"] = lambda: sides.onnx_padded("int8")
        made["embeddings, packed"] = sides.embeddings
        return made

    def is_late(self, side: str) -> bool:
        """Whether the time is up; then the side is left out."""
        if self.is_over:
            self.report.say(f"Left out: {side}; {self.args.minutes:g} minutes are over.")
        return self.is_over

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.started > 60 * self.args.minutes

    def wants(self, side: str) -> bool:
        return not self.args.sides or side in self.args.sides


def has_onnx() -> bool:
    """Whether models can be exported and run here."""
    return bool(util.find_spec("onnxruntime") and util.find_spec("onnxscript"))


def matmul_rate(device: str) -> tuple[float, float] | None:
    """bf16 operations a second of a large product on the card, a few at a time and without a pause; None on a CPU.

    The second is lower where the card draws all the power it may.
    """
    if device == "cpu":
        return None
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    short = sorted(_seconds(a, b, 1) for _ in range(13))[6]
    _seconds(a, b, 300)
    return 2 * 8192**3 / short, 2 * 8192**3 / _seconds(a, b, 300)


def _seconds(a: torch.Tensor, b: torch.Tensor, count: int) -> float:
    """Of one product, when `count` are computed one after the other."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        a @ b
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def header(args: argparse.Namespace, rates: tuple[float, float] | None) -> list[str]:
    """Where, with what and how the figures were taken."""
    card = torch.cuda.get_device_name() if rates else f"CPU, {args.threads} threads"
    names = ("torch", "transformers", "tokenizers", "onnxruntime", "onnxruntime-gpu", "sentence-transformers")
    lines = [
        f"# Encoders on {card}",
        "",
        f"- command: `{shlex.join(['python', 'benchmarks/encoders.py', *sys.argv[1:]])}`",
        f"- date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"- Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores",
        *(f"- {name} {version}" for name in names if (version := _version(name))),
    ]
    if rates is None:
        return lines
    told = "- matmul: {:.0f} TFLOP/s (bf16, measured), {:.0f} when products follow one another for a second"
    return [*lines, told.format(*(rate / 1e12 for rate in rates))]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    quieten()
    logging.getLogger().setLevel(logging.ERROR)
    Benchmark(args).run()


if __name__ == "__main__":
    main()
