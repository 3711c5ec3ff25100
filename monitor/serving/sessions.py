"""Who is logged in at the page and for how long, and how often a wrong token may be tried."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

#: seconds that a login lasts
SESSION_S = 12 * 3600
#: logins remembered, the oldest of which ends when there are more
_MOST_SESSIONS = 1000
#: wrong tokens from one address, after which it waits; and of all addresses together
FREE_TRIES = 5
ALL_TRIES = 100
#: seconds of the first wait, doubled with every further wrong token
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 300.0
_MOST_ADDRESSES = 10_000
_EVERYBODY = "everybody"


class Role(StrEnum):
    """What somebody at the page may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Session:
    """One login."""

    role: Role
    ends: float


class Sessions:
    """The logins of one dashboard process; they end with it, at their time, or at a logout."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._sessions: dict[str, Session] = {}

    def open(self, role: Role) -> str:
        """The cookie of a new login."""
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        self._sessions[cookie] = Session(role, self._now() + SESSION_S)
        return cookie

    def role_of(self, cookie: str | None) -> Role | None:
        """The role of a login that has not ended, None of any other text."""
        session = self._sessions.get(cookie or "")
        if session is None or session.ends > self._now():
            return session.role if session else None
        self.close(cookie)
        return None

    def close(self, cookie: str | None) -> None:
        """Log out."""
        self._sessions.pop(cookie or "", None)


class Attempts:
    """Wrong tokens by address: after a few, each one is followed by a longer wait, in which none is looked at."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        #: wrong tokens in a row, and until when to wait
        self._wrong: dict[str, tuple[int, float]] = {}

    def wait_s(self, address: str) -> float:
        """Seconds until another token from there is looked at, 0 when it may come now."""
        until = max(self._wrong.get(name, (0, 0.0))[1] for name in (address, _EVERYBODY))
        return max(0.0, until - self._now())

    def failed(self, address: str) -> None:
        """A wrong token came from there."""
        for name, free in ((address, FREE_TRIES), (_EVERYBODY, ALL_TRIES)):
            count, until = self._wrong.pop(name, (0, 0.0))
            # long after the last wait, it starts over
            count = 1 if self._now() > until + _LONGEST_WAIT_S and until else count + 1
            wait = min(_FIRST_WAIT_S * 2 ** min(count - free, 20), _LONGEST_WAIT_S) if count >= free else 0.0
            self._wrong[name] = (count, self._now() + wait)
        while len(self._wrong) > _MOST_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]

    def succeeded(self, address: str) -> None:
        """The right token came from there."""
        self._wrong.pop(address, None)
