"""Walls are folders: what a room may not load, no module of it loads, each room tried in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

MODEL_LIBRARIES = (
    "torch",
    "transformers",
    "onnxruntime",
    "accelerate",
    "safetensors",
    "peft",
    "PIL",
    "huggingface_hub",
)
CELERY_WORKER = ("celery.worker", "celery.bin", "celery.concurrency", "celery.apps.worker")
QUEUE = ("celery", "kombu", "redis", "billiard")
ROOMS = ("schemas", "producers", "tasks", "workers", "monitor")
ABOVE_WORKERS = ("parquetry.tasks", "parquetry.producers", "parquetry.monitor", "parquetry.api", "parquetry.cli")

#: folder -> what none of its modules may load
WALLS = {
    "parquetry": MODEL_LIBRARIES + CELERY_WORKER,
    "parquetry.schemas": MODEL_LIBRARIES + QUEUE + tuple(f"parquetry.{room}" for room in ROOMS if room != "schemas"),
    "parquetry.producers": MODEL_LIBRARIES + CELERY_WORKER,
    "parquetry.monitor": MODEL_LIBRARIES + CELERY_WORKER,
    "parquetry.tasks": MODEL_LIBRARIES,
    "parquetry.tasks.ledger": (*MODEL_LIBRARIES, "celery", "kombu", "billiard"),
    **{
        f"parquetry.workers.{folder}": MODEL_LIBRARIES + QUEUE + ABOVE_WORKERS
        for folder in (
            "shards",
            "reading",
            "preparation",
            "replies",
            "responses",
            "checkpoint",
            "process",
            "packed.scheduling",
        )
    },
}
#: every module below a folder but programs; in a checkout the rooms lie beside the front door's folder, not in it
LOAD = """
import importlib, pkgutil, sys
module = importlib.import_module({name!r})
for found in pkgutil.walk_packages(module.__path__, {name!r} + "."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
print(*sys.modules)
"""


def loaded(code: str) -> set[str]:
    """Names of all modules that a fresh process holds after `code`, which prints them."""
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def within(names: set[str], roots: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots))


@pytest.mark.parametrize("folder", WALLS)
def test_no_module_of_the_folder_loads_what_its_wall_keeps_out(folder):
    assert within(loaded(LOAD.format(name=folder)), WALLS[folder]) == []


def test_the_modules_beside_the_rooms_of_the_workers_load_no_queue():
    names = "engine", "engine_spec", "request", "stops", "packages", "gpus"
    code = f"import sys; from parquetry.workers import {', '.join(names)}; print(*sys.modules)"
    assert within(loaded(code), MODEL_LIBRARIES + QUEUE + ABOVE_WORKERS) == []


@pytest.mark.skipif(find_spec("torch") is None, reason="the torch extra is not installed")
def test_engines_load_no_queue():
    code = "import sys, parquetry.workers.hosting.process, parquetry.workers.hosting.engine_choice; print(*sys.modules)"
    assert within(loaded(code), QUEUE + ABOVE_WORKERS) == []
