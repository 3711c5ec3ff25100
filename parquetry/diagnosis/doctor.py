"""Everything that is looked at for `doctor`, and how what was found is shown."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import asdict

from parquetry.broker import open_ledger
from parquetry.diagnosis.cards import gpu_findings
from parquetry.diagnosis.installation import (
    cpu,
    engine_packages,
    onnx_providers,
    packages,
    python,
    state_folder,
    vllm_engine,
)
from parquetry.diagnosis.services import broker, engines, storage
from parquetry.schemas.finding import Finding, Level
from parquetry.terminal.display import console, print_json, safe_text

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.UNUSABLE: "bold red"}


def examine(output: str | None) -> list[Finding]:
    """Every finding about this machine; `output` adds the put-if-absent check of that folder."""
    looks = [
        python,
        packages,
        engine_packages,
        cpu,
        gpu_findings,
        onnx_providers,
        vllm_engine,
        state_folder,
        broker,
        engines,
    ]
    findings = [finding for look in looks for finding in look()]
    return [*findings, *storage(output)] if output is not None else findings


def worker_here() -> list[Finding]:
    """Whether a worker of this host is alive: what a container's health check asks."""
    host = socket.gethostname()
    count = sum(worker.host == host for worker in open_ledger().workers())
    if count:
        return [Finding("worker", Level.OK, f"{count} workers of {host} are alive")]
    return [Finding("worker", Level.UNUSABLE, f"no worker of {host} is alive", "start one: parquetry worker")]


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
