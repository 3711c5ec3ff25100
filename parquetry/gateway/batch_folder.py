"""A batch on the storage: what was asked for, whether it was stopped, the output of its job, and how it ended."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from parquetry.gateway.batch_record import BatchObject, BatchRecord
from parquetry.schemas.location import Location
from parquetry.schemas.spec.batch_format import ERRORS_FILE, OUTPUT_FILE
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Entry

#: in the ids of files, which of a batch's files it is
FILES = {"out": OUTPUT_FILE, "err": ERRORS_FILE}


class BatchFolder:
    """The folder of one batch."""

    def __init__(self, folder: Location, output: Location) -> None:
        """`output` is that of its job, in another place: who lists batches is not to be shown every part."""
        self._storage = open_storage(folder)
        self.output = output

    def create(self, record: BatchRecord) -> None:
        """Keep what was asked for."""
        self._storage.put("batch.json", record.model_dump_json().encode())

    def record(self) -> BatchRecord | None:
        """What was asked for, None where there is no batch."""
        data = self._storage.try_read("batch.json")
        return None if data is None else BatchRecord.model_validate_json(data)

    def forget(self) -> None:
        """Undo `create`."""
        self._storage.delete("batch.json")

    def stop(self, why: str, now: int) -> None:
        """Note that it is stopped; the first reason counts."""
        self._storage.put_if_absent("stopped.json", json.dumps({"why": why, "at": now}).encode())

    def stopped(self) -> dict[str, Any] | None:
        """Why it was stopped and when, None where it was not."""
        return self._read("stopped.json")

    def end(self, found: BatchObject) -> BatchObject:
        """Keep how it ended; what was kept first is what counts."""
        self._storage.put_if_absent("ended.json", json.dumps(found).encode())
        return self.ended() or found

    def ended(self) -> BatchObject | None:
        """How it ended, None before."""
        return self._read("ended.json")

    def _read(self, name: str) -> dict[str, Any] | None:
        data = self._storage.try_read(name)
        return None if data is None else dict(json.loads(data))

    def file(self, kind: str) -> Entry | None:
        """One of its job's two files, None where it is not written or was deleted."""
        return open_storage(self.output).head(FILES[kind])

    def open_file(self, kind: str) -> BinaryIO:
        """The content of one of these."""
        return open_storage(self.output).open(FILES[kind])

    def delete_file(self, kind: str) -> None:
        """Remove one of these."""
        open_storage(self.output).delete(FILES[kind])
