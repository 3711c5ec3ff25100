"""The rooms' walls: what submitting a job or running a shard may not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import workers

#: everything in the room but what runs on the device
ENGINES = {"backends", "heads", "model_host", "noise", "sampling", "stopping", "torch_encoder", "transformers_generate"}
ENGINES |= {"add_linear", "decoder_prefix", "encoders", "generators", "loaded_model"}
TORCH_FREE = sorted(
    path.stem for path in Path(workers.__file__).parent.glob("*.py") if path.stem not in ENGINES | {"__init__"}
)


def loaded_by(modules: list[str], forbidden: set[str]) -> set[str]:
    code = f"import {', '.join(modules)}, sys; print(*({forbidden!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(done.stdout.split())


def test_torch_free_modules_load_no_torch_and_no_queue():
    forbidden = {"torch", "transformers", "onnxruntime", "celery", "redis", "kombu", "huggingface_hub"}

    assert loaded_by([f"workers.{name}" for name in TORCH_FREE], forbidden) == set()


def test_images_are_read_without_torch_and_decoded_elsewhere():
    forbidden = {"torch", "transformers", "PIL", "celery", "redis"}

    assert loaded_by(["workers.vision.preparation", "producers.validation"], forbidden) == set()


def test_engines_load_no_queue():
    pytest.importorskip("torch", reason="the torch extra is not installed")

    assert loaded_by(["workers.backends"], {"celery", "redis", "kombu"}) == set()
