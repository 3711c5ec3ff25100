"""Warnings about speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parquetry.workers.loading.quantization.figures import FIGURES, speed_warning
from parquetry.workers.loading.quantization.quantization import RECIPES

RESULTS = Path(__file__).resolve().parents[5] / "benchmarks" / "results"


def test_a_slow_choice_is_named_with_its_source() -> None:
    warning = speed_warning("int8", "NVIDIA A100-SXM4-80GB")
    assert "0.15 times" in warning and "bitsandbytes issue 181" in warning


def test_a_card_without_figures_of_its_own_gets_the_nearest() -> None:
    assert "on an H100" in speed_warning("int8", "NVIDIA GeForce RTX 5090")


def test_the_measured_card_gets_what_was_measured() -> None:
    """The table of benchmarks/results/quantization-speed_NVIDIA-H100-80GB-HBM3_20261123.json."""
    reports = json.loads((RESULTS / "quantization-speed_NVIDIA-H100-80GB-HBM3_20261123.json").read_text())["reports"]
    rates = {report["quantization"]: report["end_to_end"] for report in reports}
    for name in RECIPES:
        ratio = rates[name] / rates["none"]
        warning = speed_warning(name, "NVIDIA H100 80GB HBM3")
        assert f"{ratio:.2f} times" in warning if ratio < 1 else warning is None


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_what_is_not_slower_is_not_warned_about(quantization: str) -> None:
    assert speed_warning(quantization, "NVIDIA H100 80GB HBM3") is None


def test_every_figure_is_of_a_quantization_there_is() -> None:
    assert {name for figure in FIGURES for name in figure.quantizations} <= RECIPES.keys()
