"""Where rows may take images from: the input's own folders, or the roots that an operator has listed."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from parquetry.schemas.errors import LocationError, RowError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.settings import settings
from parquetry.workers.preparation.images.web_images import WebRoot, is_web

_MAGIC = re.compile(r"[*?\[]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ImageRoots:
    """Resolves an image reference to a location, and refuses those outside the allowed folders."""

    #: where relative paths begin
    base: Location
    #: folders that images may lie in, at any depth
    folders: tuple[Location, ...]
    #: addresses that images may be fetched from
    web: tuple[WebRoot, ...] = ()

    @classmethod
    def of(cls, record: JobRecord) -> ImageRoots:
        """The roots in PARQUETRY_IMAGE_ROOTS; if it is not set, the input's folders and no web address."""
        own = input_folders(record)
        listed = settings().image_roots
        if not listed:
            return cls(own[0], own)
        folders = tuple(Location.parse(root) for root in listed if not is_web(root))
        return cls(own[0], folders, tuple(WebRoot.parse(root) for root in listed if is_web(root)))

    def locate(self, path: str) -> Location:
        """The file at a path or s3://, gs://, az:// or file:// URI, its links followed. Raises RowError."""
        try:
            location = self._parse(path)
        except (LocationError, OSError, ValueError) as error:
            raise RowError(reason=f"the image {_shown(path)} is not to be had: {error}") from None
        if not any(folder.contains(location) for folder in self.folders):
            allowed = ", ".join(map(str, self.folders)) or "none"
            reason = f"the image {_shown(path)} lies outside the folders that images may come from ({allowed})"
            raise RowError(reason=f"{reason}; an operator may list more in PARQUETRY_IMAGE_ROOTS")
        return location

    def _parse(self, path: str) -> Location:
        if _SCHEME.match(path) or os.path.isabs(path):
            return Location.parse(path)
        # parsed again, so that links of a local path are followed before anybody asks where it lies
        return Location.parse(str(self.base.join(path)))

    def require_web(self, url: str) -> None:
        """Raise RowError unless `url` lies below a listed address."""
        if not any(root.contains(url) for root in self.web):
            reason = f"the image {_shown(url)} is on the web, and no address that it lies below is allowed"
            raise RowError(reason=f"{reason}; an operator may list it in PARQUETRY_IMAGE_ROOTS")


def input_folders(record: JobRecord) -> tuple[Location, ...]:
    """The folders that the job's input names: a folder itself, the folder of a file, or that before a pattern."""
    paths = record.spec.input.path
    folders = [_folder(text, record) for text in ([paths] if isinstance(paths, str) else paths)]
    return tuple(dict.fromkeys(folders))


def _folder(text: str, record: JobRecord) -> Location:
    magic = _MAGIC.search(text)
    if magic is not None and not os.path.exists(text):
        text = text[: magic.start()].rpartition("/")[0] or "/"
    location = Location.parse(text)
    is_file = any(file.path == str(location) for file in record.shard_plan.files)
    return location.parent if is_file else location


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
