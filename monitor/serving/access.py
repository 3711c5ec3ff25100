"""Who may see the page and who may change a job: tokens by role, a login cookie, a CSRF token, a list of host names."""

from __future__ import annotations

import hmac
import ipaddress
import math
import secrets
from dataclasses import dataclass, field

from starlette.requests import Request

from parquetry.monitor.serving.sessions import Attempts, Role, Sessions
from parquetry.schemas.errors import RetryableError, WrongSettingError

COOKIE = "parquetry_session"
CSRF_HEADER = "x-csrf-token"


class TokenRequiredError(WrongSettingError):
    """The dashboard would be reachable from other machines on {host}; set PARQUETRY_DASHBOARD_TOKEN, or bind it to
    127.0.0.1."""


class TooManyTriesError(RetryableError):
    """Too many wrong tokens came from here; wait {seconds} s."""


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
    """The secrets of one dashboard process. Without a token everybody who can reach the page is an operator."""

    token: str | None
    #: lets in those who may look and change nothing
    viewer_token: str | None = None
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    sessions: Sessions = field(default_factory=Sessions)
    attempts: Attempts = field(default_factory=Attempts)

    def role_of(self, request: Request) -> Role | None:
        """What the sender may do, by the token or by the cookie that a login gave; None lets nobody in."""
        if self.token is None:
            return Role.OPERATOR
        bearer = _bearer(request)
        return self.try_token(bearer, request) if bearer else self.sessions.role_of(request.cookies.get(COOKIE))

    def may_change(self, request: Request) -> bool:
        """Whether a POST comes from our own page, or from a script that holds the token."""
        has_token = self.token is not None and _same(_bearer(request), self.token)
        return has_token or _same(request.headers.get(CSRF_HEADER), self.csrf)

    def try_token(self, token: str, request: Request) -> Role | None:
        """The role that a token gives. Raises TooManyTriesError while its sender has to wait."""
        address = address_of(request)
        if wait_s := self.attempts.wait_s(address):
            raise TooManyTriesError(seconds=math.ceil(wait_s))
        known = ((Role.OPERATOR, self.token), (Role.VIEWER, self.viewer_token))
        role = next((role for role, wanted in known if wanted and _same(token, wanted)), None)
        (self.attempts.failed if role is None else self.attempts.succeeded)(address)
        return role

    def who(self, request: Request) -> str:
        """The sender in the audit log."""
        how = "token" if _bearer(request) else "page"
        return f"{self.role_of(request) or 'nobody'} by {how} from {address_of(request)}"


def address_of(request: Request) -> str:
    """The address that a request came from, as far as this process sees."""
    return request.client.host if request.client else "unknown"


def _bearer(request: Request) -> str | None:
    """The token that a request carries, as those of scripts do."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), wanted.encode())
