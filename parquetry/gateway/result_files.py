"""The output and error files of batches that have ended, as files among those that users sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from parquetry.gateway.batch_folder import BatchFolder
from parquetry.gateway.batch_record import BatchObject
from parquetry.gateway.batches import Batches
from parquetry.gateway.refusals import not_found
from parquetry.gateway.stored_files import FileObject, file_object

_ID = re.compile(r"file-(out|err)-([0-9a-f]{24})")
_NAMES = {"out": "output", "err": "error"}


@dataclass(frozen=True)
class ResultFile:
    """One file of a batch."""

    about: FileObject
    _folder: BatchFolder
    _kind: str

    def open(self) -> BinaryIO:
        """Its content."""
        return self._folder.open_file(self._kind)

    def delete(self) -> None:
        """Remove it; the batch and its parts stay."""
        self._folder.delete_file(self._kind)


class ResultFiles:
    """Those of all users."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def get(self, user: str, file_id: str) -> ResultFile | None:
        """The file of an id, None for an id of another kind. Raises Refusal where it is not there."""
        match = _ID.fullmatch(file_id)
        if match is None:
            return None
        folder = self._batches.folder(user, f"batch_{match[2]}")
        ended = folder.ended()
        found = None if ended is None else self._found(folder, ended, match[1], file_id)
        if found is None:
            raise not_found("File object", file_id)
        return found

    def of_user(self, user: str) -> Iterator[FileObject]:
        """All that are there."""
        for name in self._batches.names(user):
            folder = self._batches.folder(user, name)
            ended = folder.ended() or {}
            for key, kind in (("output_file_id", "out"), ("error_file_id", "err")):
                found = self._found(folder, ended, kind, ended[key]) if ended.get(key) else None
                if found is not None:
                    yield found.about

    def _found(self, folder: BatchFolder, ended: BatchObject, kind: str, file_id: str) -> ResultFile | None:
        entry = folder.file(kind)
        if entry is None:
            return None
        created = next((ended[f"{s}_at"] for s in ("completed", "expired", "cancelled") if ended.get(f"{s}_at")), 0)
        filename = f"{ended['id']}_{_NAMES[kind]}.jsonl"
        return ResultFile(file_object(file_id, entry.size, created, filename, "batch_output"), folder, kind)
