"""Tells webhooks what happens to jobs: signed as the Standard Webhooks specification says, at least once each."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from typing import TYPE_CHECKING

from parquetry.schemas.errors import UnknownJobError, redact_path
from parquetry.schemas.settings import settings
from parquetry.schemas.webhook_hosts import RefusedAddressError, WebhookHosts
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.tasks.ledger.outbox import Notice

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)
TIMEOUT_S = 10.0
#: tries before a webhook is given up: about six hours
MAX_TRIES = 15
_PREFIX = "whsec_"


def deliver_due(ledger: Ledger, *, ahead_s: int = 0) -> int:
    """Send every notice that is due, or will be in `ahead_s`; returns how many were delivered."""
    count = 0
    if settings().webhook_secret is None:
        return count
    while (notice := ledger.outbox.take(ahead_s=ahead_s)) is not None:
        count += _deliver(ledger, notice)
    return count


def _deliver(ledger: Ledger, notice: Notice) -> bool:
    problem = _post(notice, payload(ledger, notice))
    # the rest of the address may be a token
    whom = redact_path(notice.url)
    if problem is None:
        log.info("job %s: %s was told that it is %s", notice.job, whom, notice.event)
    elif notice.tries < MAX_TRIES:
        log.warning("job %s: %s was not told (%s); it will be tried again", notice.job, whom, problem)
        return False
    else:
        log.error("job %s: %s was not told (%s) in %d tries", notice.job, whom, problem, notice.tries)
    ledger.outbox.done(notice)
    return problem is None


def payload(ledger: Ledger, notice: Notice) -> bytes:
    """What a webhook gets: the job, what happened, and its numbers if the queue still knows them."""
    body = {"type": f"job.{notice.event}", "timestamp": notice.at_ms / 1000, "job": notice.job}
    try:
        status = ledger.status(notice.job, max_failures=0)
    except UnknownJobError:
        return json.dumps(body).encode()
    names = ("task", "model", "output", "rows", "rows_done", "error_rows", "shards", "shards_failed")
    return json.dumps({**body, **{name: getattr(status, name) for name in names}}).encode()


def _post(notice: Notice, body: bytes) -> str | None:
    """What went wrong, None when the receiver answered 2xx."""
    # most workers never have a notice to send
    import httpx

    try:
        url = httpx.URL(notice.url)
        address = WebhookHosts.of_settings().address(notice.url)
        # a redirect would take the signed notice to whoever the receiver names
        with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as client:
            answer = client.send(_request(client, url, address, headers(notice.id, int(time.time()), body), body))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, RefusedAddressError) as error:
        return f"{type(error).__name__}: {error}".replace(notice.url, redact_path(notice.url))
    return None if answer.is_success else f"it answered {answer.status_code}"


def _request(client: httpx.Client, url: httpx.URL, address: str, named: dict[str, str], body: bytes) -> httpx.Request:
    """A request to the address that was looked at, under the name that its certificate must have."""
    return client.build_request(
        "POST",
        url.copy_with(host=address),
        content=body,
        headers={**named, "host": url.netloc.decode()},
        extensions={"sni_hostname": url.host},
    )


def headers(id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Headers of one notice; `timestamp` is in seconds since the Unix epoch."""
    secret = settings().webhook_secret
    assert secret is not None
    signature = sign(secret.get_secret_value(), id, timestamp, body)
    return {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the base64 of HMAC-SHA256 over id, timestamp and body; a secret `whsec_...` is base64 itself."""
    digest = hmac.digest(_key(secret), f"{id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()
