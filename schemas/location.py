"""Where files lie: a local path or an object-store URI, parsed and rebuilt, never handed on as it came."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from parquetry.schemas.errors import LocationError, redact
from parquetry.schemas.settings import settings

LOCAL = "file"
OBJECT_SCHEMES = ("s3", "gs", "az")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,220}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Location:
    """A file or folder. Only `parse` makes one from text a user wrote; it refuses what is not plainly a location."""

    scheme: str
    #: bucket or container; empty for a local path
    bucket: str
    #: absolute and free of links for a local path, else the key without a leading slash
    path: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """A local path (absolute, relative, `~` or file://) or an s3://, gs:// or az:// URI.

        Links and `..` of a local path are resolved. User, password, query and fragment of a URI are dropped: they could
        point the client at another server. Raises LocationError, also for what lies outside `allowed_roots`.
        """
        location = cls._rebuild(text)
        roots = tuple(settings().allowed_roots)
        if roots and not any(root.contains(location) for root in _parse_roots(roots)):
            raise LocationError(uri=_shown(text), reason=f"it is outside the allowed roots {', '.join(roots)}")
        return location

    @classmethod
    def _rebuild(cls, text: str) -> Location:
        _refuse_control(text, shown=text)
        scheme, separator, rest = text.partition("://")
        if not separator:
            return cls._local(os.path.expanduser(text), text)
        if scheme == LOCAL:
            return cls._local(_file_uri_path(rest, text), text)
        if scheme not in OBJECT_SCHEMES:
            known = ", ".join(f"{name}://" for name in (LOCAL, *OBJECT_SCHEMES))
            raise LocationError(uri=_shown(text), reason=f"its scheme is not one of {known}")
        return cls._object(scheme, rest, text)

    @classmethod
    def _local(cls, path: str, text: str) -> Location:
        if not path:
            raise LocationError(uri=repr(text), reason="it is empty")
        if re.match(rf"({LOCAL}|{'|'.join(OBJECT_SCHEMES)}):", path):
            raise LocationError(uri=_shown(text), reason="a URI has two slashes after its scheme, as in s3://")
        return cls(LOCAL, "", os.path.realpath(path))

    @classmethod
    def _object(cls, scheme: str, rest: str, text: str) -> Location:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
        authority, _, key = rest.partition("/")
        bucket = authority.rpartition("@")[2]
        if not _BUCKET.fullmatch(bucket):
            raise LocationError(uri=_shown(text), reason=f"{bucket!r} is not a bucket name")
        return cls(scheme, bucket, _normalize_key(key, shown=text))

    @property
    def is_local(self) -> bool:
        return self.scheme == LOCAL

    @property
    def name(self) -> str:
        """The last name of the path; empty for a whole bucket."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The folder it lies in; a bucket's root is its own parent."""
        folder = self.path.rpartition("/")[0]
        return Location(self.scheme, self.bucket, folder or ("/" if self.is_local else ""))

    def join(self, name: str) -> Location:
        """The file or folder `name` (may hold slashes) below this folder. Raises LocationError if it could escape."""
        _refuse_control(name, shown=f"{self}/{name}")
        relative = _normalize_key(name, shown=f"{self}/{name}")
        if not relative or name.startswith("/"):
            raise LocationError(uri=_shown(f"{self}/{name}"), reason="a name below a folder must be relative")
        return Location(self.scheme, self.bucket, f"{self.path.rstrip('/')}/{relative}".removeprefix(self._no_slash))

    def contains(self, other: Location) -> bool:
        """Whether `other` is this very location or lies below it."""
        if (self.scheme, self.bucket) != (other.scheme, other.bucket):
            return False
        mine, theirs = self.resolved.rstrip("/"), other.resolved.rstrip("/")
        return mine in ("", theirs) or theirs.startswith(mine + "/")

    @property
    def resolved(self) -> str:
        """The path with links followed: `join` adds names that may be links."""
        return os.path.realpath(self.path) if self.is_local else self.path

    @property
    def _no_slash(self) -> str:
        return "" if self.is_local else "/"

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.scheme}://{self.bucket}/{self.path}".rstrip("/")


def require_allowed(folder: Path) -> None:
    """Refuse a local folder outside `allowed_roots`, and one whose files are links that lead out. Raises LocationError.

    For what a job names that is no input or output: models and adapters.
    """
    if settings().allowed_roots:
        for path in (folder, *(folder.iterdir() if folder.is_dir() else ())):
            Location.parse(str(path))


@lru_cache(maxsize=4)
def _parse_roots(roots: tuple[str, ...]) -> tuple[Location, ...]:
    return tuple(Location._rebuild(root) for root in roots)


def _file_uri_path(rest: str, text: str) -> str:
    host, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    if host not in ("", "localhost"):
        raise LocationError(uri=_shown(text), reason="a file:// URI names this machine, as in file:///data")
    decoded = unquote(path, errors="surrogateescape")
    _refuse_control(decoded, shown=text)
    return "/" + decoded


def _normalize_key(key: str, *, shown: str) -> str:
    names = [name for name in key.split("/") if name not in ("", ".")]
    if ".." in names:
        raise LocationError(uri=_shown(shown), reason="'..' is not allowed in it")
    return "/".join(names)


def _refuse_control(text: str, *, shown: str) -> None:
    if _CONTROL.search(text):
        raise LocationError(uri=_shown(shown), reason="it has a control character or is not UTF-8")


def _shown(text: str) -> str:
    # repr escapes control characters, so a hostile name cannot write to the terminal
    return repr(redact(text) if "://" in text else text)[1:-1]
