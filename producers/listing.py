"""Which files an input names: one file, a folder with hive partitions, a glob, or a list of these."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from urllib.parse import unquote

from parquetry.schemas.errors import InputNotFoundError, UnreadableFileError
from parquetry.schemas.formats import Format, format_of
from parquetry.schemas.location import Location
from parquetry.schemas.storage.opening import open_storage
from parquetry.schemas.storage.storage import Entry

_MAGIC = re.compile(r"[*?\[]")
_COMPRESSED = re.compile(r"\.(jsonl|csv)\.(gz|zst|bz2|xz|lz4)$")


@dataclass(frozen=True)
class Source:
    """One item of `input.path`: a file or folder, or a folder and a pattern below it."""

    #: as the user wrote it, for messages
    text: str
    base: Location
    #: path below `base`, with `*`, `?`, `[...]` and `**`; None for a file or folder as it is
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises LocationError. A local path that exists is taken literally, with its `*` and `?`."""
        magic = _MAGIC.search(text)
        if magic is None or os.path.exists(text):
            return cls(text, _location(text))
        folder = text[: magic.start()].rpartition("/")[0]
        if folder.endswith(":/"):
            # the bucket itself has a star, which no store can list
            return cls(text, Location.parse(text))
        start = len(folder) + 1 if folder or text.startswith("/") else 0
        return cls(text, Location.parse(folder or ("/" if start else ".")), text[start:])

    @property
    def normalized(self) -> str:
        """The same files named from anywhere: absolute, links resolved, no query."""
        return str(self.base) if self.pattern is None else f"{str(self.base).rstrip('/')}/{self.pattern}"

    def matches(self, path: str) -> bool:
        """Whether a path below `base` belongs to it: the pattern fits, and nothing is hidden or starts with `_`."""
        segments = path.split("/")
        if any(segment.startswith((".", "_")) for segment in segments):
            return False
        return self.pattern is None or _fits(segments, self.pattern.split("/"))

    def may_hold(self, folder: Location) -> bool:
        """Whether files written into `folder` would become input."""
        if not self.base.contains(folder):
            return False
        if self.pattern is None:
            return True
        below = str(folder).removeprefix(str(self.base)).strip("/")
        return self.matches(f"{below}/part-00000000.parquet".lstrip("/"))


@dataclass(frozen=True)
class FoundFile:
    """One input file as it was listed."""

    location: Location
    entry: Entry
    format: Format
    #: hive partition columns read off the path
    partitions: dict[str, str]

    @property
    def path(self) -> str:
        return str(self.location)

    @property
    def is_blank(self) -> bool:
        """A text file of no bytes: it has no rows, and no columns to compare."""
        return self.entry.size == 0 and self.format != "parquet"


def find_files(paths: str | list[str]) -> list[FoundFile]:
    """The files of all items, each once, sorted by path. Raises InputNotFoundError for an item that has none."""
    found: dict[str, FoundFile] = {}
    for text in [paths] if isinstance(paths, str) else paths:
        files = list(_files_of(Source.parse(text)))
        if not files:
            raise InputNotFoundError(path=text)
        for file in files:
            found.setdefault(file.path, file)
    if not found:
        raise InputNotFoundError(path="an empty list")
    return [found[path] for path in sorted(found)]


def _files_of(source: Source) -> Iterator[FoundFile]:
    if source.pattern is None and source.base.name:
        entry = open_storage(source.base.parent).head(source.base.name)
        if entry is not None:
            yield _named_file(source.base, entry)
            return
    for entry in open_storage(source.base).list():
        kind = _format_below(source, entry.path) if source.matches(entry.path) else None
        if kind is not None:
            location = _checked(source.base.join(entry.path))
            yield FoundFile(location, entry, kind, _partitions(entry.path))


def _location(text: str) -> Location:
    location = Location.parse(text)
    if not (location.is_local and os.path.islink(text) and os.path.isfile(text)):
        return location
    # a link's own name tells the format, the name it leads to may not
    return Location.parse(os.path.dirname(text) or ".").join(os.path.basename(text))


def _named_file(location: Location, entry: Entry) -> FoundFile:
    kind = format_of(location.name)
    if kind is None:
        raise UnreadableFileError(path=location, reason="its name ends in none of .parquet, .jsonl and .csv")
    return FoundFile(location, replace(entry, path=location.name), kind, {})


def _format_below(source: Source, path: str) -> Format | None:
    """The format of a file that a folder or a glob holds, None for one that is no input."""
    if _COMPRESSED.search(path):
        # skipping it would silently lose rows
        raise UnreadableFileError(path=f"{source.base}/{path}", reason="it is compressed; decompress it first")
    return format_of(path)


def _checked(location: Location) -> Location:
    # a link may lead outside the allowed roots; its own name is kept, for the suffix and the partitions
    Location.parse(str(location))
    return location


def _partitions(path: str) -> dict[str, str]:
    pairs = (segment.partition("=") for segment in path.split("/")[:-1])
    return {key: unquote(value) for key, equals, value in pairs if key and equals}


def _fits(segments: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not segments
    if pattern[0] == "**":
        return any(_fits(segments[skipped:], pattern[1:]) for skipped in range(len(segments) + 1))
    return bool(segments) and fnmatchcase(segments[0], pattern[0]) and _fits(segments[1:], pattern[1:])
