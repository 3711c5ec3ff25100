"""Reads a row's images as encoded bytes, within the operator's limits. Nothing is decoded here."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Sequence
from functools import lru_cache

from parquetry.schemas.errors import RowError
from parquetry.schemas.location import Location
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.settings import settings
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Storage
from parquetry.workers.preparation.images.image_column import Reference
from parquetry.workers.preparation.images.image_roots import ImageRoots
from parquetry.workers.preparation.images.web_images import WebImages, is_web


class ImageReader:
    """Reads images by reference. Thread-safe."""

    def __init__(self, roots: ImageRoots, *, max_bytes: int) -> None:
        """`max_bytes` bounds the images of one row together."""
        self._roots = roots
        self._max_bytes = max_bytes
        self._web = WebImages(roots.require_web, max_bytes)
        self._bucket = lru_cache(maxsize=64)(open_storage)

    @classmethod
    def of(cls, record: JobRecord) -> ImageReader:
        """The reader of a job, under this machine's settings."""
        return cls(ImageRoots.of(record), max_bytes=settings().image_max_bytes)

    def read(self, references: Sequence[Reference]) -> tuple[bytes, ...] | RowError:
        """The images of one row, or a RowError for the first that cannot be read. Raises StorageError."""
        images, left = [], self._max_bytes
        try:
            for reference in references:
                images.append(self._read(reference, left))
                left -= len(images[-1])
        except RowError as error:
            return error
        return tuple(images)

    def _read(self, reference: Reference, limit: int) -> bytes:
        content = reference if isinstance(reference, bytes) else self._content(reference, limit)
        self._require_within(limit, len(content))
        return content

    def _require_within(self, limit: int, size: int) -> None:
        if size > limit:
            reason = f"the row's images have more than {self._max_bytes} bytes together"
            raise RowError(reason=f"{reason}; an operator may raise PARQUETRY_IMAGE_MAX_BYTES")

    def _content(self, text: str, limit: int) -> bytes:
        if text[:5].lower() == "data:":
            return _data(text)
        if is_web(text):
            return self._web.fetch(text)
        location = self._roots.locate(text)
        return _read_file(location, limit) if location.is_local else self._read_object(location, limit)

    def _read_object(self, location: Location, limit: int) -> bytes:
        bucket: Storage = self._bucket(Location(location.scheme, location.bucket, ""))
        entry = bucket.head(location.path)
        if entry is None:
            raise _missing(location)
        self._require_within(limit, entry.size)
        with bucket.open(location.path) as file:
            return file.read()


def _read_file(location: Location, limit: int) -> bytes:
    """At most one byte more than `limit` of a regular file: a pipe or a device would never end."""
    try:
        # links were followed when its place was checked; a link now is one that came in between
        descriptor = os.open(location.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _missing(location) from None
    except OSError as error:
        raise RowError(reason=f"the image {str(location)!r} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RowError(reason=f"the image {str(location)!r} is not a file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1)


def _missing(location: Location) -> RowError:
    return RowError(reason=f"there is no image at {str(location)!r}")


def _data(text: str) -> bytes:
    """The bytes inside a data: URL, as chat messages often carry them."""
    head, _, body = text.partition(",")
    if not head.lower().endswith(";base64"):
        raise RowError(reason="a data: URL of an image must be base64")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RowError(reason="a data: URL of an image is not valid base64") from None
