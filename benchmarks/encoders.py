"""Encoder throughput: packed torch and ONNX Runtime beside padding in arrival order and sorted by length.

    python benchmarks/encoders.py                                    # this machine's device, MiniLM's shape on a CPU
    python benchmarks/encoders.py --shapes bert-base bert-large --lengths short mixed long --rows 16384

All sides run in one command on the same rows; token ids in, logits out; the best of the timed rounds, which
alternate, counts. On a GPU the share of the card's own matmul rate is printed too. On a CPU the same rows also go
through `parquetry run`, text in Parquet to scores in Parquet, and are compared with the engine alone.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from encoder_files import run_files
from encoder_sides import SHAPES, Side, Sides, flops, write_model
from texts import LENGTHS, texts

HERE = Path(__file__).resolve().parent
#: the engine that a job gets on a CPU
_JOB_SIDE = "padded, sorted"
_HEADER = "| side | seconds | tokens/s | rows/s | times the peer | of the matmul rate | max logit difference |"


def parse_args() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["bert-base"] if on_gpu else ["minilm"])
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=["mixed"])
    parser.add_argument("--rows", type=int, default=16384 if on_gpu else 512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cuda:0" if on_gpu else "cpu")
    parser.add_argument("--sides", nargs="+", help="only these")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def available_sides(sides: Sides) -> dict[str, Callable[[], Side]]:
    """Name -> what makes the side; the first is the peer the others are compared with."""
    on_cpu = sides.device == "cpu"
    made = {
        "padded, arrival order": lambda: sides.arrival(32 if on_cpu else 64),
        "one by one, arrival order": lambda: sides.arrival(1),
        "padded, sorted": sides.sorted,
        "packed": sides.packed,
    }
    if not on_cpu:
        # one row at a time leaves a GPU idle; it is no peer
        del made["one by one, arrival order"]
    if util.find_spec("onnxruntime") and util.find_spec("onnxscript"):
        made["onnx padded, sorted"] = sides.onnx_padded
        if on_cpu:
            made["onnx int8, sorted"] = lambda: sides.onnx_padded("int8")
        else:
            made["onnx packed"] = sides.onnx_packed
    return made


def timed(sides: dict[str, Side], rows: list[np.ndarray], rounds: int) -> dict[str, tuple[float, np.ndarray]]:
    """Best seconds of each side and what it gave, after a round that warms up.

    Rounds go over all sides in turn, so that whatever else the machine does slows none of them alone.
    """
    best: dict[str, tuple[float, np.ndarray]] = {}
    for side in sides.values():
        side(rows if torch.cuda.is_available() else rows[:64])
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            out = side(rows)
            seconds = time.perf_counter() - start
            best[name] = min(best.get(name, (float("inf"), out)), (seconds, out), key=lambda pair: pair[0])
    return best


def matmul_rate(device: str) -> float | None:
    """bf16 operations a second of a large product on the card, None on a CPU."""
    if device == "cpu":
        return None
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * 8192**3 / sorted(times)[6]


def compare(shape: str, kind: str, args: argparse.Namespace, rate: float | None) -> list[str]:
    """One table: every side over the same rows."""
    rows = texts(kind, args.rows)
    num_tokens = sum(map(len, rows))
    lines = [f"\n### {shape}, {kind} texts: {len(rows)} rows of {num_tokens / len(rows):.0f} tokens on average\n"]
    lines += [_HEADER, "|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_model(shape, Path(folder))
        dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
        makers = available_sides(Sides(Path(folder), args.device, dtype))
        sides = {name: make() for name, make in makers.items() if not args.sides or name in args.sides}
        found = timed(sides, rows, args.rounds)
        files = through_files(Path(folder), rows, found) if args.device == "cpu" and _JOB_SIDE in found else []
    peer, reference = next(iter(found.values()))
    for name, (seconds, out) in found.items():
        share = f"{flops(shape, rows) / seconds / rate:.1%}" if rate else ""
        lines.append(
            f"| {name} | {seconds:.3f} | {num_tokens / seconds:,.0f} | {len(rows) / seconds:,.0f} |"
            f" {peer / seconds:.2f} | {share} | {np.abs(out - reference).max():.4f} |"
        )
        print(lines[-1], flush=True)
    print("\n".join(files), flush=True)
    return lines + files


def through_files(folder: Path, rows: list[np.ndarray], found: dict[str, tuple[float, np.ndarray]]) -> list[str]:
    """Sentences about the same rows from file to file, beside the engine that the job runs on."""
    (folder / "job").mkdir()
    run = run_files(folder, rows, folder / "job")
    engine_seconds, logits = found[_JOB_SIDE]
    ends = f"File to file, `parquetry run`: {run.seconds:.1f} s, of which {run.start_seconds:.1f} s are start and end"
    rate = f"{sum(map(len, rows)) / run.working_seconds:,.0f} tokens/s between them"
    ratio = f"{engine_seconds / run.working_seconds:.2f} times the engine alone ({_JOB_SIDE})"
    told = f"{rate}, {ratio}" if run.is_telling else "too few rows to tell a rate"
    return ["", f"{ends}; {told}; max logit difference {np.abs(run.scores - logits).max():.4f}."]


def header(args: argparse.Namespace, rate: float | None) -> list[str]:
    """Where, with what and how the figures were taken."""
    card = torch.cuda.get_device_name() if rate else f"CPU, {args.threads} threads"
    packages = [name for name in ("torch", "transformers", "tokenizers", "onnxruntime") if util.find_spec(name)]
    lines = [
        f"# Encoders on {card}",
        "",
        f"- command: `{shlex.join(['python', 'benchmarks/encoders.py', *sys.argv[1:]])}`",
        f"- date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        f"- Python {platform.python_version()}",
        *(f"- {name} {metadata.version(name)}" for name in packages),
    ]
    return [*lines, f"- matmul: {rate / 1e12:.0f} TFLOP/s (bf16, measured)"] if rate else lines


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    rate = matmul_rate(args.device)
    head = header(args, rate)
    print("\n".join(head))
    tables = [line for shape in args.shapes for kind in args.lengths for line in compare(shape, kind, args, rate)]
    args.out.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M")
    place = torch.cuda.get_device_name().replace(" ", "-") if rate else "CPU"
    (args.out / f"encoders_{place}_{stamp}.md").write_text("\n".join([*head, *tables, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
