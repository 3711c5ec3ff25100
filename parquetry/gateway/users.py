"""Who sends a request, by the digest of the token in it."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping

from starlette.requests import Request

from parquetry.gateway.refusals import Refusal
from parquetry.monitor.serving.access import address_of
from parquetry.monitor.serving.sessions import Attempts


class Users:
    """The tokens' digests by user. Tokens themselves are kept nowhere."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = dict(digests)
        self._attempts = Attempts()

    def of(self, request: Request) -> str:
        """The sender's name. Raises Refusal for a token that is missing or nobody's, slower after several of these."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        address = address_of(request)
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal(401, "You didn't provide an API key; send it as a bearer token.", code="invalid_api_key")
        user = self._user(token.strip())
        if user is not None:
            return user
        if wait_s := self._attempts.wait_s(address):
            raise Refusal(429, f"Too many wrong API keys came from here; wait {math.ceil(wait_s)} s.")
        self._attempts.failed(address)
        raise Refusal(401, "Incorrect API key provided.", code="invalid_api_key")

    def _user(self, token: str) -> str | None:
        digest = hashlib.sha256(token.encode()).hexdigest()
        # all are compared, so that time tells nothing
        found = [name for name, known in self._digests.items() if hmac.compare_digest(digest, known)]
        return found[0] if found else None
