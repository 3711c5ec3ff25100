"""Images from the web: only from addresses that an operator has listed, redirects included."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

import httpx

from parquetry.schemas.errors import RowError
from parquetry.schemas.settings import SettingError

_TIMEOUT_S = 20.0
#: for one try; a server that sends a byte now and then would never time out
_DEADLINE_S = 60.0
_TRIES = 3
_PAUSE_S = 0.5
_MAX_REDIRECTS = 3


def is_web(text: str) -> bool:
    """Whether it is an http or https URL."""
    return text.lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class WebRoot:
    """A URL below which images may be fetched."""

    origin: tuple[str, str, int | None]
    path: str

    @classmethod
    def parse(cls, text: str) -> WebRoot:
        """Raises SettingError."""
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL as error:
            raise SettingError(key="IMAGE_ROOTS", value=repr(text), reason=str(error)) from None
        return cls(_origin(url), url.path.rstrip("/") + "/")

    def contains(self, text: str) -> bool:
        """Whether the URL has this scheme, host and port, no user, and a path below this one, without `..`."""
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            return False
        path = unquote(url.path)
        is_plain = not url.userinfo and ".." not in path.replace("\\", "/").split("/")
        return is_plain and _origin(url) == self.origin and path.startswith(self.path)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host.lower(), url.port or default


@dataclass(frozen=True)
class WebImages:
    """Fetches images. `require` is called with the URL of every redirect and raises RowError for a forbidden one."""

    require: Callable[[str], None]
    max_bytes: int

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False)

    def fetch(self, url: str) -> bytes:
        """The body at `url`. Raises RowError; passing faults are tried again first."""
        for attempt in range(_TRIES):
            try:
                return self._follow(url)
            except (httpx.HTTPError, _TryAgain) as error:
                reason = str(error) or type(error).__name__
            if attempt + 1 < _TRIES:
                time.sleep(_PAUSE_S * 2**attempt)
        raise RowError(reason=f"the image {url[:120]!r} could not be fetched in {_TRIES} tries: {reason[:200]}")

    def _follow(self, url: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            self.require(url)
            with self._client.stream("GET", url) as response:
                if not response.has_redirect_location:
                    return self._body(url, response)
                url = str(response.url.join(response.headers["location"]))
        raise RowError(reason=f"the image {url[:120]!r} was redirected more than {_MAX_REDIRECTS} times")

    def _body(self, url: str, response: httpx.Response) -> bytes:
        if response.status_code == 429 or response.status_code >= 500:
            raise _TryAgain(f"the server answered {response.status_code}")
        if response.status_code != 200:
            reason = f"the server answered {response.status_code}"
            raise RowError(reason=f"the image {url[:120]!r} could not be fetched: {reason}")
        body, deadline = bytearray(), time.monotonic() + _DEADLINE_S
        for received in response.iter_bytes():
            body += received
            if time.monotonic() > deadline:
                raise _TryAgain(f"it took more than {_DEADLINE_S:g} s")
            if len(body) > self.max_bytes:
                raise RowError(reason=f"the image {url[:120]!r} has more than {self.max_bytes} bytes")
        return bytes(body)


class _TryAgain(Exception):
    """A temporary failure, worth another try."""
