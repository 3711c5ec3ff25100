"""The files that users have sent, each in a folder of its own below its user's."""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from parquetry.gateway.gateway_spec import Limits
from parquetry.gateway.refusals import Refusal, not_found
from parquetry.gateway.uploads import Upload, too_large
from parquetry.schemas.location import Location
from parquetry.schemas.storage.opening import open_storage

FileObject = dict[str, Any]
_ID = re.compile(r"file-[0-9a-f]{24}")
_BLOCK_BYTES = 1 << 20
_CONTENT = "content.jsonl"


class StoredFiles:
    """Files of all users; nothing of them is held in memory."""

    def __init__(self, root: Location, limits: Limits) -> None:
        self._root, self._limits = root.join("files"), limits
        self._storage = open_storage(self._root)

    def put(self, user: str, upload: Upload) -> FileObject:
        """Keep an upload. Raises Refusal for one that is empty, has too many bytes or lines, or is one too many."""
        if len(self.of_user(user)) >= self._limits.files:
            raise Refusal(400, f"You have {self._limits.files:,} files, the most that are kept; delete some first.")
        name = f"file-{uuid.uuid4().hex[:24]}"
        path = f"{user}/{name}/{_CONTENT}"
        with self._storage.attempt(f"{name}.jsonl") as attempt:
            size = self._copy(upload.file, attempt)
            self._storage.publish(attempt, path)
        found = file_object(name, size, int(time.time()), upload.filename, upload.purpose)
        # last: without it the file is not there
        self._storage.put(f"{user}/{name}/file.json", json.dumps(found).encode())
        return found

    def _copy(self, source: Any, attempt: Path) -> int:
        size, lines, last = 0, 0, b"\n"
        source.seek(0)
        with attempt.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                target.write(block)
                size, lines, last = size + len(block), lines + block.count(b"\n"), block[-1:]
        lines += last != b"\n"
        if not size:
            raise Refusal(400, "The file is empty.", param="file")
        if size > self._limits.file_bytes:
            raise too_large(self._limits.file_bytes)
        if lines > self._limits.lines:
            reason = f"The file has {lines:,} lines; {self._limits.lines:,} are the most that are taken here."
            raise Refusal(400, reason, param="file")
        return size

    def get(self, user: str, name: str) -> FileObject:
        """Raises Refusal for a file that is not there, or another user's."""
        data = self._storage.try_read(f"{user}/{name}/file.json") if _ID.fullmatch(name) else None
        if data is None:
            raise not_found("File object", name)
        found: FileObject = json.loads(data)
        return found

    def of_user(self, user: str) -> list[FileObject]:
        """The user's files, newest first."""
        paths = [entry.path for entry in self._storage.list(f"{user}/") if entry.path.endswith("/file.json")]
        read = [data for path in paths if (data := self._storage.try_read(path)) is not None]
        return sorted(map(json.loads, read), key=lambda found: (-found["created_at"], found["id"]))

    def location(self, user: str, name: str) -> Location:
        """Where the content of a file lies, for a job to read."""
        return self._root.join(f"{user}/{name}/{_CONTENT}")

    def open(self, user: str, name: str) -> BinaryIO:
        """The content. Raises Refusal as `get` does."""
        self.get(user, name)
        return self._storage.open(f"{user}/{name}/{_CONTENT}")

    def delete(self, user: str, name: str) -> None:
        """Remove a file. Raises Refusal as `get` does."""
        self.get(user, name)
        self._storage.delete(f"{user}/{name}/file.json")
        self._storage.delete(f"{user}/{name}/{_CONTENT}")


def file_object(name: str, size: int, created: int, filename: str, purpose: str) -> FileObject:
    """A file as clients read it."""
    about = {"created_at": created, "filename": filename[:256], "purpose": purpose, "status": "processed"}
    return {"id": name, "object": "file", "bytes": size, **about, "status_details": None, "expires_at": None}


def copy_out(file: BinaryIO) -> Any:
    """The content block by block; the file is closed behind it."""
    with closing(file):
        while block := file.read(_BLOCK_BYTES):
            yield block
