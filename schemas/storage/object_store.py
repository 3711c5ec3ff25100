"""Storage in S3, Google Cloud Storage or Azure Blob Storage: conditional puts refuse to overwrite.

Credentials and endpoints come from the environment, under the names obstore reads (AWS_*, GOOGLE_*, AZURE_*), never
from a location.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from parquetry.schemas.errors import PutIfAbsentError, StorageError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import ATTEMPTS_FOLDER
from parquetry.schemas.storage.object_file import ObjectFile, first_line, storage_errors
from parquetry.schemas.storage.object_replacement import ObjectReplacement
from parquetry.schemas.storage.replacement import Replacement
from parquetry.schemas.storage.storage import Entry, Storage

#: files up to this many bytes are created by one conditional put, larger ones by a multipart upload and a copy
MAX_SINGLE_PUT = 64 << 20
_UPLOAD_PART_BYTES = 16 << 20
_RETRIES = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
_CLIENT = {"connect_timeout": "10s", "timeout": "300s"}


class ObjectStorage(Storage):
    """Objects whose keys start with the root's key and a slash."""

    def __init__(self, root: Location) -> None:
        super().__init__(root)
        with storage_errors("opening", root):
            self._store = _open_store(root)

    def list(self, prefix: str = "") -> list[Entry]:
        folder = self._key(prefix.rpartition("/")[0])
        with storage_errors("listing", self.root):
            found = [self._entry(meta) for page in obstore.list(self._store, folder or None) for meta in page]
        return sorted((e for e in found if e.path.startswith(prefix)), key=lambda entry: entry.path)

    def _entry(self, meta: Any) -> Entry:
        path = meta["path"].removeprefix(self.root.path).removeprefix("/")
        return Entry(path=path, size=meta["size"], etag=(meta["e_tag"] or meta["version"] or "").strip('"'))

    def head(self, path: str) -> Entry | None:
        with storage_errors("looking up", self.root.join(path)):
            try:
                return self._entry(obstore.head(self._store, self._key(path)))
            except FileNotFoundError:
                return None

    def try_read(self, path: str) -> bytes | None:
        with storage_errors("reading", self.root.join(path)):
            try:
                return bytes(obstore.get(self._store, self._key(path)).bytes())
            except FileNotFoundError:
                return None

    def open(self, path: str) -> BinaryIO:
        entry = self.head(path)
        if entry is None:
            raise StorageError(operation="opening", path=self.root.join(path), reason="there is no such file")
        return ObjectFile(self._store, self._key(path), size=entry.size)  # type: ignore[return-value]

    def put(self, path: str, data: bytes) -> None:
        with storage_errors("writing", self.root.join(path)):
            obstore.put(self._store, self._key(path), data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        with storage_errors("writing", self.root.join(path)):
            return self._create(self._key(path), data)

    def _create(self, key: str, data: bytes | Path) -> bool:
        try:
            obstore.put(self._store, key, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    @contextmanager
    def attempt(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="parquetry-") as folder:
            yield Path(folder) / Path(name).name

    def publish(self, attempt: Path, name: str) -> bool:
        with storage_errors("publishing", self.root.join(name)):
            if attempt.stat().st_size <= MAX_SINGLE_PUT:
                return self._create(self._key(name), attempt)
            # a taken name is seen before the upload, and decided by the copy
            return self.head(name) is None and self._stage_and_copy(attempt, self._key(name))

    def _stage_and_copy(self, attempt: Path, key: str) -> bool:
        # a multipart upload cannot be conditional here, a copy can
        staged = self._key(f"{ATTEMPTS_FOLDER}/{uuid.uuid4().hex}-{attempt.name}")
        try:
            obstore.put(self._store, staged, attempt, use_multipart=True, chunk_size=_UPLOAD_PART_BYTES)
            return self._copy(staged, key)
        finally:
            self._remove(staged)

    def _copy(self, source: str, target: str) -> bool:
        try:
            obstore.copy(self._store, source, target, overwrite=False)
        except AlreadyExistsError:
            return False
        return True

    @contextmanager
    def replacement(self, path: str) -> Iterator[Replacement]:
        with self.attempt(path) as attempt:
            yield ObjectReplacement(self._store, self._key(path), attempt)

    def delete(self, path: str) -> None:
        with storage_errors("deleting", self.root.join(path)):
            self._remove(self._key(path))

    def _remove(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            pass

    def discard_attempts(self, folder: str = "") -> None:
        for entry in self.list(f"{ATTEMPTS_FOLDER}/{folder}/" if folder else f"{ATTEMPTS_FOLDER}/"):
            self.delete(entry.path)

    def check_put_if_absent(self) -> None:
        name = self._key(f"{ATTEMPTS_FOLDER}/check-{uuid.uuid4().hex}")
        with storage_errors("writing", self.root):
            try:
                self._create(name, b"check")
                self.require_refusal(second_create=self._create(name, b"check"))
                self._copy(name, f"{name}-copy")
                self.require_refusal(second_create=self._copy(name, f"{name}-copy"))
            except NotImplementedError as error:
                raise PutIfAbsentError(path=self.root, reason=first_line(error)) from error
            finally:
                self._remove(name)
                self._remove(f"{name}-copy")

    def _key(self, path: str) -> str:
        return self.root.join(path).path if path else self.root.path


class _Process:
    """The client's threads do not survive a fork, and calls would wait for them for ever."""

    used_by: int | None = None

    @classmethod
    def require_own(cls, root: Location) -> None:
        cls.used_by = cls.used_by or os.getpid()
        if cls.used_by != os.getpid():
            reason = f"this process was forked from {cls.used_by}, which had used an object store before"
            raise StorageError(operation="opening", path=root, reason=reason)


def _open_store(root: Location) -> ObjectStore:
    _Process.require_own(root)
    options: dict[str, Any] = {"retry_config": _RETRIES, "config": _CLIENT}
    if root.scheme == "s3":
        return S3Store(root.bucket, copy_if_not_exists="multipart", **options)
    if root.scheme == "gs":
        return GCSStore(root.bucket, **options)
    return AzureStore(root.bucket, **options)
