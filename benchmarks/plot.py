"""The plot of docs/speed.md: output tokens per second of every engine on every workload of one generation result.

    pip install matplotlib && python benchmarks/plot.py benchmarks/results/generation_CARD_DATE.json docs/generation.svg

Needs matplotlib, which nothing else here does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NAMES = {"packed": "parquetry", "vllm": "vLLM", "continuous": "transformers CB", "padded": "transformers generate"}
COLORS = {"packed": "#0b6e4f", "vllm": "#8a8d91", "continuous": "#b9bcc0", "padded": "#d9dbde"}


def rates(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Output tokens per second by workload and engine; engines that gave no result are left out."""
    found: dict[str, dict[str, float]] = {}
    for side in report["reports"]:
        if "output_tok_s" in side:
            found.setdefault(side["workload"], {})[side["side"]] = side["output_tok_s"]
    return found


def draw(report: dict[str, Any], target: Path) -> None:
    """One group of bars a workload, each with its rate above it."""
    import matplotlib

    matplotlib.use("svg")
    # text stays text, and the file is the same whenever it is drawn
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "parquetry", "font.family": "sans-serif"})
    from matplotlib import pyplot

    groups = rates(report)
    sides = [name for name in NAMES if any(name in group for group in groups.values())]
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(sides)
    for index, side in enumerate(sides):
        heights = [group.get(side, 0.0) for group in groups.values()]
        places = [at + (index - (len(sides) - 1) / 2) * width for at in range(len(groups))]
        bars = axes.bar(places, heights, width * 0.92, color=COLORS[side], label=NAMES[side])
        axes.bar_label(bars, [f"{height:,.0f}" if height else "" for height in heights], fontsize=8, padding=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel("output tokens per second")
    axes.set_title(f"{report['ceilings']['device']}, {report['date']}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
