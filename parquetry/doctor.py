"""Looks at this machine, the broker and the storage, and says what to do about each finding."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from parquetry.broker import open_ledger
from parquetry.display import console, print_json, safe_text
from parquetry.engine_findings import engine_findings
from parquetry.finding import Finding, Level
from parquetry.schemas.errors import ParquetryError, redact
from parquetry.schemas.settings import settings
from parquetry.workers.gpus import GpuQueryError, visible_names
from parquetry.workers.processor import this_processor

#: packages of the base install whose versions matter most
BASE = ("celery", "kombu", "redis", "pyarrow", "obstore", "pydantic", "tokenizers")
ENGINE = ("torch", "transformers")
STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.UNUSABLE: "bold red"}


def examine(output: str | None) -> list[Finding]:
    """Every finding about this machine; `output` adds the put-if-absent probe of that folder."""
    looks = [_python, _packages, _engine_packages, _cpu, _gpus, engine_findings, _onnx_providers, _state_dir, _broker]
    findings = [finding for look in looks for finding in look()]
    return [*findings, *_storage(output)] if output is not None else findings


def is_usable(findings: Iterable[Finding]) -> bool:
    """Whether nothing is unusable."""
    return all(finding.level is not Level.UNUSABLE for finding in findings)


def print_findings(findings: list[Finding], *, as_json: bool) -> None:
    """A line a finding, its fix below it; or JSON."""
    if as_json:
        print_json({"usable": is_usable(findings), "findings": [asdict(finding) for finding in findings]})
        return
    screen = console()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        screen.print(f"{finding.level:<8}", style=STYLES[finding.level], end=" ")
        screen.print(f"{finding.name:<{width}}  {safe_text(finding.text, limit=1000)}")
        if finding.fix:
            screen.print(f"{'':<{width + 9}}  -> {safe_text(finding.fix, limit=400)}")


def worker_here() -> list[Finding]:
    """Whether a worker of this host beats: what a container's health check asks."""
    host = socket.gethostname()
    count = sum(worker.host == host for worker in open_ledger().workers())
    if count:
        return [Finding("worker", Level.OK, f"{count} slots of {host} are alive")]
    return [Finding("worker", Level.UNUSABLE, f"no worker of {host} is alive", "start one: parquetry worker")]


def _python() -> Iterator[Finding]:
    text = f"Python {'.'.join(map(str, sys.version_info[:3]))}, parquetry {_version('parquetry') or 'from a checkout'}"
    yield Finding("python", Level.OK, text)


def _packages() -> Iterator[Finding]:
    found = {name: _version(name) for name in BASE}
    missing = [name for name, number in found.items() if number is None]
    if missing:
        yield Finding("packages", Level.UNUSABLE, f"missing: {', '.join(missing)}", "run: pip install parquetry")
    else:
        yield Finding("packages", Level.OK, ", ".join(f"{name} {number}" for name, number in found.items()))


def _engine_packages() -> Iterator[Finding]:
    found = {name: _version(name) for name in ENGINE if find_spec(name)}
    if len(found) == len(ENGINE):
        yield Finding("engine", Level.OK, ", ".join(f"{name} {number}" for name, number in found.items()))
    elif find_spec("onnxruntime"):
        yield Finding("engine", Level.WARNING, "ONNX Runtime only", "for generation: pip install 'parquetry[torch]'")
    else:
        text = "no torch: this machine can submit jobs, but not work on them"
        yield Finding("engine", Level.WARNING, text, "on a worker: pip install 'parquetry[torch]' (or [gpu], [onnx])")


def _cpu() -> Iterator[Finding]:
    yield Finding("cpu", Level.OK, this_processor().summary)


def _gpus() -> Iterator[Finding]:
    try:
        names = visible_names()
    except GpuQueryError as error:
        fix = "reinstall the NVIDIA driver, or restart the machine"
        yield Finding("gpu", Level.UNUSABLE, str(error), fix)
        return
    yield Finding("gpu", Level.OK, ", ".join(names) if names else "none visible; workers use the CPU")


def _onnx_providers() -> Iterator[Finding]:
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


def _state_dir() -> Iterator[Finding]:
    folder = settings().state_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield Finding("state folder", Level.OK, str(folder))
    else:
        fix = "make it writable, or set PARQUETRY_STATE_DIR"
        yield Finding("state folder", Level.UNUSABLE, f"{folder} cannot be written", fix)


def _broker() -> Iterator[Finding]:
    url = settings().broker_url
    yield from _guarded("broker", _embedded_broker if url is None else lambda: _configured_broker(url))


def _embedded_broker() -> Iterator[Finding]:
    from parquetry.embedded import embedded_server, find_server

    with embedded_server():
        yield Finding("broker", Level.OK, f"none configured; `run` starts its own: {find_server()}")


def _configured_broker(url: str) -> Iterator[Finding]:
    from parquetry.tasks.broker.settings_check import check

    findings = check(url)
    yield Finding("broker", Level.OK, f"{redact(url)} answers")
    for finding in findings:
        level = Level.OK if finding.ok else Level.WARNING
        yield Finding(f"broker {finding.name}", level, finding.text, finding.fix)


def _storage(output: str) -> Iterator[Finding]:
    yield from _guarded("storage", lambda: _probe(output))


def _probe(output: str) -> Iterator[Finding]:
    from parquetry.schemas.location import Location
    from parquetry.schemas.storage.storage import open_storage

    location = Location.parse(output)
    created = _missing_folders(Path(location.path)) if location.is_local else []
    try:
        open_storage(location).probe()
    finally:
        for folder in created:
            folder.rmdir() if folder.is_dir() and not any(folder.iterdir()) else None
    yield Finding("storage", Level.OK, f"{location} refuses a second create, as it must")


def _missing_folders(folder: Path) -> list[Path]:
    return [path for path in (folder, *folder.parents) if not path.exists()]


def _guarded(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except ParquetryError as error:
        yield Finding(name, Level.UNUSABLE, str(error), "see the message; nothing can run until then")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
