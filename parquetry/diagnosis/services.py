"""Whether the broker and the output's storage do what a job needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from parquetry.broker import open_ledger
from parquetry.local.embedded import embedded_server, find_server
from parquetry.schemas.errors import ParquetryError, redact
from parquetry.schemas.finding import Finding, Level
from parquetry.schemas.location import Location
from parquetry.schemas.settings import settings
from parquetry.schemas.storage.opening import open_storage


def broker() -> Iterator[Finding]:
    """The configured broker and its settings, or the server that `run` would start."""
    url = settings().broker_url
    yield from _guarded("broker", _embedded_broker if url is None else lambda: _configured_broker(url))


def engines() -> Iterator[Finding]:
    """What the engines of the broker's living workers had to do without."""
    if settings().broker_url is None:
        return
    try:
        workers = open_ledger().workers()
    except ParquetryError:
        # the look at the broker has said so
        return
    for worker in workers:
        for reason in worker.engine.slowed_by if worker.engine else ():
            fix = f"it serves {worker.model}; its log and the parts' metadata say the same"
            yield Finding(f"worker {worker.worker}", Level.WARNING, reason, fix)


def storage(output: str) -> Iterator[Finding]:
    """Whether the folder or URI refuses to create what exists; what the check made is gone afterwards."""
    yield from _guarded("storage", lambda: _check_storage(output))


def _embedded_broker() -> Iterator[Finding]:
    with embedded_server():
        yield Finding("broker", Level.OK, f"none configured; `run` starts its own: {find_server()}")


def _configured_broker(url: str) -> Iterator[Finding]:
    from parquetry.tasks.broker.settings_check import check

    findings = check(url)
    yield Finding("broker", Level.OK, f"{redact(url)} answers")
    for finding in findings:
        yield replace(finding, name=f"broker {finding.name}")


def _check_storage(output: str) -> Iterator[Finding]:
    location = Location.parse(output)
    created = _missing_folders(Path(location.path)) if location.is_local else []
    try:
        open_storage(location).check_put_if_absent()
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
