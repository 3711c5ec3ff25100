"""One item of `input.path`, and which paths below a folder belong to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote

from parquetry.schemas.location import Location

_MAGIC = re.compile(r"[*?\[]")
#: what Hive, Spark and everything after them call the partition of null
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


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

    def fits(self, path: str) -> bool:
        """Whether the pattern fits a path below `base`, hidden or not."""
        return self.pattern is None or _fits(path.split("/"), self.pattern.split("/"))

    def matches(self, path: str) -> bool:
        """Whether a path below `base` belongs to it: the pattern fits, and nothing of it is hidden."""
        return not is_hidden(path) and self.fits(path)

    def may_hold(self, folder: Location) -> bool:
        """Whether files written into `folder` would become input."""
        if not self.base.contains(folder):
            return False
        if self.pattern is None:
            return True
        below = str(folder).removeprefix(str(self.base)).strip("/")
        return self.matches(f"{below}/part-00000000.parquet".lstrip("/"))


def is_hidden(path: str) -> bool:
    """Spark's rule: what begins with `_` or `.` is hidden, unless it is a partition, as in `_date=2024-01-01`."""
    return any(segment.startswith((".", "_")) and "=" not in segment for segment in path.split("/"))


def partitions_of(path: str) -> Iterator[tuple[str, str | None]]:
    """Hive partition columns of the folders in a file's path."""
    return (found for part in path.split("/")[:-1] if (found := _partition(part)))


def trailing_partitions(folder: Location) -> list[tuple[str, str | None]]:
    """The partition columns a folder and those right above it stand for, so that one partition keeps its columns."""
    found = []
    while pair := _partition(folder.name):
        found.append(pair)
        folder = folder.parent
    return found[::-1]


def _partition(part: str) -> tuple[str, str | None] | None:
    key, equals, value = part.partition("=")
    return (unquote(key), None if value == _NULL_PARTITION else unquote(value)) if key and equals else None


def _location(text: str) -> Location:
    location = Location.parse(text)
    if not (location.is_local and os.path.islink(text) and os.path.isfile(text)):
        return location
    # a link's own name tells the format, the name it leads to may not
    return Location.parse(os.path.dirname(text) or ".").join(os.path.basename(text))


def _fits(parts: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
