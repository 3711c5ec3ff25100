"""Replacing an object: a conditional put that names the version which it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError
from obstore.store import ObjectStore

from parquetry.schemas.storage.object_file import storage_errors
from parquetry.schemas.storage.replacement import Replacement


class ObjectReplacement(Replacement):
    """The object is the one that was there at `shut_others`, or it is not replaced."""

    def __init__(self, store: ObjectStore, key: str, path: Path) -> None:
        self._store, self._key, self._path = store, key, path
        self._version: Any = None

    @property
    def path(self) -> Path:
        return self._path

    def shut_others(self) -> None:
        with storage_errors("looking up", self._key):
            try:
                found = obstore.head(self._store, self._key)
            except FileNotFoundError:
                return
        self._version = {name: found[name] for name in ("e_tag", "version") if found[name] is not None}

    def replace(self) -> bool:
        if self._version is None:
            return False
        with storage_errors("replacing", self._key):
            try:
                obstore.put(self._store, self._key, self._path, mode=self._version, use_multipart=False)
            except (PreconditionError, AlreadyExistsError, NotFoundError):
                return False
        return True
