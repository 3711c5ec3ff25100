"""Who may see the page and who may change a job: a token, a login cookie, a CSRF token, a list of host names."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field

from starlette.requests import Request

from parquetry.schemas.errors import UnusableEnvironmentError

COOKIE = "parquetry_session"
CSRF_HEADER = "x-csrf-token"


class TokenRequiredError(UnusableEnvironmentError):
    """The dashboard would be reachable from other machines on {host}; set PARQUETRY_DASHBOARD_TOKEN, or bind it to
    127.0.0.1."""


def is_loopback(host: str) -> bool:
    """Whether binding to `host` is visible on this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None) -> None:
    """Raises TokenRequiredError when the page would be open to other machines."""
    if not token and not is_loopback(host):
        raise TokenRequiredError(host=host)


def allowed_hosts(token: str | None) -> list[str]:
    """Host headers answered. Without a token a foreign name pointed at 127.0.0.1 must not read the page."""
    return ["*"] if token else ["localhost", "127.0.0.1", "[::1]"]


@dataclass(frozen=True)
class AccessGate:
    """The secrets of one dashboard process. `token` None lets everybody in who can reach the page."""

    token: str | None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def admits(self, request: Request) -> bool:
        """Whether the request carries the token or the cookie a login gave."""
        return self.token is None or self.has_bearer(request) or _same(request.cookies.get(COOKIE), self.session)

    def has_bearer(self, request: Request) -> bool:
        """Whether the request carries the token itself, as scripts do."""
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        return self.token is not None and scheme.lower() == "bearer" and _same(value.strip(), self.token)

    def may_change(self, request: Request) -> bool:
        """Whether a POST comes from our own page, or from a script that holds the token."""
        return self.has_bearer(request) or _same(request.headers.get(CSRF_HEADER), self.csrf)

    def accepts(self, token: str) -> bool:
        """Whether `token` is the right one to log in with."""
        return self.token is not None and _same(token, self.token)


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), wanted.encode())
