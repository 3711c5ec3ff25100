"""Small facts that outlive a job, one file each in the state folder; only the last ones are kept."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from parquetry.schemas.settings import settings

log = logging.getLogger(__name__)
Fact = TypeVar("Fact", bound=BaseModel)
#: files that a folder holds
MAX_FILES = 200


class RecentFiles(Generic[Fact]):
    """Facts of one kind by job; what cannot be read or written costs the fact and nothing else."""

    def __init__(self, name: str, kind: type[Fact]) -> None:
        self._name = name
        self._kind = kind

    @property
    def _folder(self) -> Path:
        return settings().state_dir / self._name

    def put(self, job: str, fact: Fact) -> None:
        """Keep the fact of a job in place of an earlier one, and drop the oldest beyond MAX_FILES."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # whole or not at all: others may be reading
            unfinished = self._folder / f"{job}.{uuid.uuid4().hex[:8]}"
            unfinished.write_text(fact.model_dump_json())
            unfinished.replace(self._path(job))
            self._drop_oldest()
        except OSError as error:
            log.info("job %s: %s is not kept: %s", job, self._name, error)

    def get(self, job: str) -> Fact | None:
        """The fact of a job, None where there is none that can be read."""
        return self._read(self._path(job))

    def all(self) -> Iterator[Fact]:
        """Every fact that can be read, in no order."""
        yield from filter(None, map(self._read, self._folder.glob("*.json")))

    def _path(self, job: str) -> Path:
        return self._folder / f"{job}.json"

    def _read(self, path: Path) -> Fact | None:
        try:
            return self._kind.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def _drop_oldest(self) -> None:
        files = list(self._folder.iterdir())
        if len(files) > MAX_FILES:
            for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-MAX_FILES]:
                path.unlink(missing_ok=True)
