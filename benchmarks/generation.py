"""Generation throughput: our packed engine beside vLLM, transformers' continuous batching and padded `generate`.

    python benchmarks/generation.py                          # everything that is installed, all workloads
    python benchmarks/generation.py --sides packed vllm --workloads nano

Every side runs in a fresh process on the same card in the same command; the last round counts. Writes one JSON and one
Markdown file to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NEEDS = {"packed": "torch", "vllm": "vllm", "continuous": "transformers", "padded": "transformers"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sides", nargs="+", choices=NEEDS, default=list(NEEDS))
    names = ["nano", "offline", "prefix", "moe", "fp8", "int4", "gpt-oss", "deepseek", "long"]
    parser.add_argument("--workloads", nargs="+", choices=names, default=["nano", "offline"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=0, help="rows per workload, 0 for all")
    parser.add_argument("--options", default="{}", help="PackedOptions as JSON")
    parser.add_argument("--timeout", type=float, default=540, help="seconds per side and workload")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    return parser.parse_args()


def measure_ceilings() -> dict[str, Any]:
    """Copy bandwidth and bf16 matmul rate of this card, in a process of its own."""
    code = (
        "import json, torch\n"
        "from triton.testing import do_bench\n"
        "x = torch.randn(2**30, device='cuda', dtype=torch.bfloat16); y = torch.empty_like(x)\n"
        "copy = 4 * 2**30 / do_bench(lambda: y.copy_(x)) * 1e3\n"
        "a, b = (torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16) for _ in range(2))\n"
        "matmul = 2 * 8192**3 / do_bench(lambda: a @ b) * 1e3\n"
        "print(json.dumps({'device': torch.cuda.get_device_name(), 'bytes_per_s': copy, 'flop_per_s': matmul}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"device": "CPU", "bytes_per_s": None, "flop_per_s": None}
    return json.loads(done.stdout.splitlines()[-1])


def run_side(side: str, workload: str, args: argparse.Namespace) -> dict[str, Any]:
    """The report of one side, or one with an `error`."""
    options = args.options if side == "packed" else "{}"
    command = [sys.executable, str(HERE / "generation_sides.py"), side, workload, str(args.rounds), options]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.getenv("PYTHONPATH")]))}
    try:
        done = subprocess.run(
            [*command, str(args.rows)], stdout=subprocess.PIPE, text=True, timeout=args.timeout, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        return {"side": side, "workload": workload, "rounds": [], "error": f"no result in {args.timeout:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"side": side, "workload": workload, "rounds": [], "error": f"exit code {done.returncode}"}
    return json.loads(lines[-1])


def floor_seconds(workload: Any, ceilings: dict[str, Any]) -> float | None:
    """Matrix products and attention of prompts at the card's rate, plus key and value reads at its bandwidth.

    A prefix that all rows share counts as computed once, and as never read. Of the experts a token has those it chose.
    """
    if ceilings["bytes_per_s"] is None:
        return None
    import numpy as np
    from models import (
        kv_bytes_read,
        make_config,
        num_layer_parameters,
        num_parameters,
        prompt_attention_operations,
    )

    config = make_config(workload.model)
    layers = num_layer_parameters(config)
    head = num_parameters(config) - layers
    shared = workload.shared_prefix * (len(workload.prompts) - 1)
    num_tokens = workload.num_prompt_tokens - shared + workload.num_output_tokens
    starts = [len(ids) - workload.shared_prefix for ids in workload.prompts]
    num_keys = [np.arange(start, start + n) for start, n in zip(starts, workload.output_lens, strict=True)]
    read = kv_bytes_read(config, np.concatenate(num_keys))
    operations = 2 * (layers * num_tokens + head * workload.num_output_tokens)
    spans = np.asarray([[workload.shared_prefix, len(ids)] for ids in workload.prompts])
    operations += prompt_attention_operations(config, spans)
    return operations / ceilings["flop_per_s"] + read / ceilings["bytes_per_s"]


def summarise(report: dict[str, Any], workload: Any, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Rates of the last round."""
    if not report["rounds"]:
        return report
    last = report["rounds"][-1]
    report["output_tok_s"] = last["output_tokens"] / last["seconds"]
    report["cold_s"] = report["startup_s"] + report["rounds"][0]["seconds"]
    floor = floor_seconds(workload, ceilings)
    is_whole = last["output_tokens"] == workload.num_output_tokens
    if floor and is_whole:
        report["floor_s"], report["roofline_share"] = floor, floor / last["seconds"]
    return report


def shortfall(report: dict[str, Any]) -> str | None:
    """Why a row of ours is no measure of it: what makes it fast was taken back. None if nothing was."""
    if report["side"] != "packed" or not report["rounds"]:
        return None
    return f"runs without {report['runs_without']}" if "runs_without" in report else None


def markdown(reports: list[dict[str, Any]], head: dict[str, Any]) -> str:
    """One table; the ratio is to vLLM, or to the best other side without it."""
    lines = [f"# Generation, {head['ceilings']['device']}, {head['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in head.items() if key not in ("date",)] + [""]
    lines += [
        "| workload | engine | seconds | output tok/s | ours / it | roofline | memory GiB | start-up s | cold s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ours = {r["workload"]: r.get("output_tok_s") for r in reports if r["side"] == "packed"}
    for report in reports:
        lines.append(row(report, ours.get(report["workload"])))
    lines += [f"\n{r['workload']}: no measure of ours, it {why}" for r in reports if (why := shortfall(r))]
    return "\n".join(lines) + "\n"


def row(report: dict[str, Any], ours: float | None) -> str:
    """One line of the table."""
    if "output_tok_s" not in report:
        return f"| {report['workload']} | {report['side']} | {report.get('error')} | | | | | | |"
    rate, share = report["output_tok_s"], report.get("roofline_share")
    cells = [
        report["workload"],
        report["side"],
        f"{report['rounds'][-1]['seconds']:.2f}",
        f"{rate:,.0f}",
        f"{ours / rate:.2f}" if ours else "",
        f"{share:.0%}" if share else "",
        f"{report['peak_memory_gib']:.1f}",
        f"{report['startup_s']:.1f}",
        f"{report['cold_s']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def versions() -> dict[str, str]:
    """What is installed of the packages that matter."""
    names = ("torch", "triton", "transformers", "flash-attn", "vllm")
    return {name: metadata.version(name) for name in names if util.find_spec(name.replace("-", "_"))}


def main() -> None:
    args = parse_args()
    sys.path.insert(0, str(HERE))
    from workloads import WORKLOADS

    ceilings = measure_ceilings()
    reports = []
    for name in args.workloads:
        workload = WORKLOADS[name](args.rows) if args.rows else WORKLOADS[name]()
        for side in args.sides:
            if util.find_spec(NEEDS[side]) is None:
                print(f"{side}: {NEEDS[side]} is not installed, left out", file=sys.stderr)
                continue
            reports.append(summarise(run_side(side, name, args), workload, ceilings))
    now = datetime.datetime.now(datetime.UTC)
    head = {"date": f"{now:%Y-%m-%d %H:%M} UTC", "ceilings": ceilings, "versions": versions(), "argv": sys.argv[1:]}
    table = markdown(reports, head)
    print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    slug = f"generation_{ceilings['device'].replace(' ', '-')}_{now:%Y%m%d-%H%M}"
    (args.out / f"{slug}.json").write_text(json.dumps({**head, "reports": reports}, indent=1))
    (args.out / f"{slug}.md").write_text(table)
    if any(map(shortfall, reports)):
        sys.exit("a side of ours ran without what makes it fast: see the last lines of the table")


if __name__ == "__main__":
    main()
