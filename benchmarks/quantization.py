"""What each quantization costs and saves: memory, prefill and decode rates on one card, and quality of a real model.

    python benchmarks/quantization.py                                  # speed on this card
    python benchmarks/quantization.py --quality data/models/SmolLM2-135M-Instruct
    python benchmarks/quantization.py --layers 32                      # the whole 8B shape; 8 of its layers by default

Speed is that of layers of the Llama-8B shape with random weights, in the packed engine with compiled layers and CUDA
graphs, each quantization in a process of its own. Processes start together; when all are ready they measure one after
the other. Every rate is printed with its ratio to bfloat16. Writes one JSON and one Markdown file to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata, util
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMES = ("none", "int8", "nf4", "fp4", "fp8", "int8-weight-only")
VOCAB_SIZE = 32768


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quantizations", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--batches", default="1,64,256")
    parser.add_argument("--shape", default="llama-8b")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--no-compile", nargs="*", default=[], choices=NAMES, help="run these without torch.compile")
    parser.add_argument("--quality", type=Path, help="folder of a real model; measures quality instead of speed")
    parser.add_argument("--timeout", type=float, default=540, help="seconds for all of them")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def write_model(shape: str, num_layers: int, folder: Path) -> None:
    """A checkpoint with random weights, as `save_pretrained` leaves it, and a tokenizer of one word."""
    import torch
    from models import SHAPES, make_config
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM

    config = make_config(shape)
    config.num_hidden_layers = min(num_layers, SHAPES[shape][2]["num_hidden_layers"])
    config.vocab_size = VOCAB_SIZE
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))


def start(name: str, folder: Path, args: argparse.Namespace) -> subprocess.Popen:
    """The process that measures one quantization."""
    compiled = str(name not in args.no_compile)
    command = [sys.executable, str(HERE / "quantization_side.py"), name, str(folder)]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.getenv("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen([*command, args.batches, compiled], stdout=subprocess.PIPE, text=True, env=env)


def wait_until_ready(folder: Path, processes: dict[str, subprocess.Popen], timeout: float) -> None:
    """Give the sign to measure once every process has started up or ended: a start-up would spoil a measurement."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        starting = [n for n, p in processes.items() if p.poll() is None and not (folder / f"ready-{n}").exists()]
        if not starting:
            break
        time.sleep(0.1)
    (folder / "go").touch()


def finish(name: str, process: subprocess.Popen, timeout: float) -> dict[str, Any]:
    """The report of one process, or one with an `error`."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return {"quantization": name, "error": f"no result in {timeout:.0f} s"}
    lines = output.strip().splitlines()
    if process.returncode or not lines:
        return {"quantization": name, "error": f"exit code {process.returncode}"}
    return json.loads(lines[-1])


def measure_speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One report a quantization."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        code = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import quantization as q"
        code += "; q.write_model(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))"
        command = [sys.executable, "-c", code, str(HERE), args.shape, str(args.layers), name]
        subprocess.run(command, check=True)
        processes = {name: start(name, folder, args) for name in args.quantizations}
        wait_until_ready(folder, processes, args.timeout / 2)
        reports = []
        for name, process in processes.items():
            reports.append(finish(name, process, args.timeout))
            print(json.dumps(reports[-1]), file=sys.stderr, flush=True)
        return reports


def speed_table(reports: list[dict[str, Any]], batches: list[str]) -> list[str]:
    """Rates, each with its ratio to bfloat16."""
    base = next((r for r in reports if r["quantization"] == "none" and "rates" in r), None)
    heads = [f"{phase} {size}" for size in batches for phase in ("prefill", "decode")]
    columns = ["quantization", "weights GiB", "peak GiB", *heads, "end to end", "start-up s", "graphs"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for report in reports:
        if "error" in report:
            lines.append(f"| {report['quantization']} | {report['error']} |" + " |" * (len(columns) - 2))
        else:
            lines.append("| " + " | ".join(speed_cells(report, base, batches)) + " |")
    return lines


def speed_cells(report: dict[str, Any], base: dict[str, Any] | None, batches: list[str]) -> list[str]:
    """The cells of one line."""

    def cell(value: float, reference: float | None) -> str:
        return f"{value:,.0f}" + (f" ({value / reference:.2f}x)" if reference else "")

    cells = ["bfloat16" if report["quantization"] == "none" else report["quantization"]]
    cells += [f"{report['weights_gib']:.2f}", f"{report.get('peak_gib', 0):.2f}"]
    for size in batches:
        for phase in ("prefill", "decode"):
            cells.append(cell(report["rates"][size][phase], base and base["rates"][size][phase]))
    cells.append(cell(report["end_to_end"], base and base["end_to_end"]))
    return [*cells, f"{report['startup_s']:.0f}", "yes" if report["graphs"] else "no"]


def measure_quality(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One report a quantization that this machine can load."""
    import torch
    from quantization_quality import quality

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    names = [name for name in args.quantizations if name != "fp8" or device != "cpu"]
    return quality(args.quality, names, device)


def quality_table(reports: list[dict[str, Any]]) -> list[str]:
    """Perplexity, and how often the likeliest token is bfloat16's."""
    lines = ["| quantization | perplexity | greedy agreement |", "|---|---|---|"]
    for report in reports:
        name = "bfloat16" if report["quantization"] == "none" else report["quantization"]
        lines.append(f"| {name} | {report['perplexity']:.3f} | {report['agreement']:.1%} |")
    return lines


def device_name() -> str:
    """The card, asked in a process of its own."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """What is installed of the packages that matter."""
    names = ("torch", "triton", "transformers", "bitsandbytes", "torchao", "flash-attn")
    return {name: metadata.version(name) for name in names if util.find_spec(name.replace("-", "_"))}


def main() -> None:
    args = parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    kind = "quality" if args.quality else "speed"
    reports = measure_quality(args) if args.quality else measure_speed(args)
    table = quality_table(reports) if args.quality else speed_table(reports, args.batches.split(","))
    now, device = datetime.datetime.now(datetime.UTC), device_name()
    head = {"date": f"{now:%Y-%m-%d %H:%M} UTC", "device": device, "versions": versions(), "argv": sys.argv[1:]}
    title = [f"# Quantization, {kind}, {device}", "", *(f"- {key}: {value}" for key, value in head.items()), ""]
    text = "\n".join([*title, *table]) + "\n"
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    slug = f"quantization-{kind}_{device.replace(' ', '-')}_{now:%Y%m%d-%H%M}"
    (args.out / f"{slug}.json").write_text(json.dumps({**head, "reports": reports}, indent=1))
    (args.out / f"{slug}.md").write_text(text)


if __name__ == "__main__":
    main()
