"""Rooms load what they may, and nothing that would make a producer heavy or a worker know the queue."""

import os
import subprocess
import sys

import pytest

from tests.acceptance.commands import ROOT

MODEL_LIBRARIES = ("torch", "transformers", "onnxruntime", "accelerate", "safetensors")
CELERY_WORKER = ("celery.worker", "celery.bin", "celery.concurrency", "celery.apps.worker")
QUEUE = ("celery", "kombu", "redis", "billiard")
SERVER_SIDE = ("tasks", "producers", "monitor", "parquetry", "workers")

LOADED = """
import importlib, pkgutil, sys
for name in {modules!r}:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + ".") if {deep} else ():
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print("\\n".join(sys.modules))
"""

#: modules of `workers` that the producer side imports
TORCH_FREE = (
    "checkpoint prompts chat tokenization reader writer part wire leash request engine_spec engine_client supervisor"
    " pipeline"
)


def loaded(*modules, deep):
    """Names of all modules that importing these loads in a fresh process; with `deep`, all their submodules too."""
    script = LOADED.format(modules=modules, deep=deep)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def within(names, roots):
    return sorted(name for name in names if any(name == root or name.startswith(f"{root}.") for root in roots))


@pytest.mark.parametrize("room", ["producers", "monitor", "parquetry"])
def test_the_client_side_loads_no_model_library_and_no_celery_worker(room):
    assert within(loaded(room, deep=True), MODEL_LIBRARIES + CELERY_WORKER) == []


def test_importing_the_api_loads_neither():
    names = loaded("parquetry", deep=False)
    assert within(names, MODEL_LIBRARIES + CELERY_WORKER) == []


def test_schemas_stand_on_nothing_of_ours():
    assert within(loaded("schemas", deep=True), SERVER_SIDE + MODEL_LIBRARIES + QUEUE) == []


def test_workers_load_no_queue():
    assert within(loaded("workers", deep=False), QUEUE) == []


def test_torch_free_modules_of_workers_load_no_torch_and_no_queue():
    modules = [f"workers.{name}" for name in TORCH_FREE.split()]
    assert within(loaded(*modules, deep=False), (*MODEL_LIBRARIES, *QUEUE, "tasks")) == []


def test_engine_modules_of_workers_load_no_queue():
    names = loaded("workers.engine_process", "workers.backends", deep=False)
    assert within(names, (*QUEUE, "tasks", "producers", "parquetry")) == []
