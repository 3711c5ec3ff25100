"""Every file of a corpus made to hang, fill or kill a reader is a sentence, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.producers.hostile_files import MODELS, SPECS

#: what one file may take of processor time and memory
CPU_S = 5.0
PEAK_BYTES = 1 << 30


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-P", "-m", "tests.unit.producers.hostile_files", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", [*MODELS, *SPECS])
def test_a_hostile_file_is_bad_input(report, name):
    ended = report["results"][name]
    assert ended["exit"] == 2, ended["said"]
    assert "\n" not in ended["said"] and len(ended["said"]) < 600
    assert ended["cpu_s"] < CPU_S


def test_none_of_them_fills_the_memory(report):
    assert report["peak_bytes"] < PEAK_BYTES
