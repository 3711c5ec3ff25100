"""What is wrong with a broker's settings, and what to do about it."""

from __future__ import annotations

import redis

from parquetry.schemas.finding import Finding, Level
from parquetry.schemas.settings import settings
from parquetry.tasks.broker.connection import address_of, connect, server_info, translated
from parquetry.tasks.broker.permissions import check_permissions

#: release by its series
Releases = dict[int, tuple[int, ...]]
#: first releases of each series in which a script cannot reach freed memory (CVE-2025-49844)
FIXED_REDIS: Releases = {6: (6, 2, 20), 7: (7, 4, 6), 8: (8, 2, 2)}
FIXED_VALKEY: Releases = {7: (7, 2, 11), 8: (8, 1, 4)}


def check(broker: str | redis.Redis) -> list[Finding]:
    """Findings about persistence, eviction and version. Raises as `connect` does."""
    client = connect(broker) if isinstance(broker, str) else broker
    return [_persistence(client), _eviction(client), _version(client), check_permissions(client, settings().env)]


def durability_warnings(client: redis.Redis) -> list[str]:
    """A sentence for each way in which this broker may forget jobs of several nodes; none for a private socket.

    Raises BrokerUnreachableError.
    """
    # a server on a socket serves this machine alone, and `run` starts its own
    if "path" in client.connection_pool.connection_kwargs:
        return []
    url = address_of(client)
    with translated(url):
        findings = [_persistence(client), _eviction(client)]
    return [f"The broker {url}: {f.name} {f.text}; {f.fix}." for f in findings if not f.is_ok]


def _persistence(client: redis.Redis) -> Finding:
    enabled = server_info(client, "persistence").get("aof_enabled")
    if enabled is None:
        return Finding(name="append-only file", level=Level.OK, text="unknown: this user may not ask")
    if enabled:
        return Finding(name="append-only file", level=Level.OK, text="is on: a restart of the broker keeps every job")
    return Finding(
        name="append-only file",
        level=Level.WARNING,
        text="is off: a restart of the broker forgets every job; committed parts stay safe in the outputs",
        fix="set `appendonly yes`; after a loss, run `parquetry recover OUTPUT` for each job",
    )


def _eviction(client: redis.Redis) -> Finding:
    policy = server_info(client, "memory").get("maxmemory_policy", "unknown")
    if policy in ("noeviction", "unknown"):
        return Finding(name="eviction", level=Level.OK, text=f"maxmemory-policy {policy}")
    return Finding(
        name="eviction",
        level=Level.WARNING,
        text=f"is on (maxmemory-policy {policy}): the broker may drop the state of running jobs when memory runs short",
        fix="set `maxmemory-policy noeviction`",
    )


def _version(client: redis.Redis) -> Finding:
    info = server_info(client, "server")
    product, fixed_in = ("Valkey", FIXED_VALKEY) if "valkey_version" in info else ("Redis", FIXED_REDIS)
    text = str(info.get("valkey_version") or info.get("redis_version") or "unknown")
    if is_fixed(text, fixed_in):
        return Finding(name="version", level=Level.OK, text=f"{product} {text}")
    return Finding(
        name="version",
        level=Level.WARNING,
        text=f"{product} {text} has a hole that lets scripts run code on the server (CVE-2025-49844)",
        fix="upgrade, or make sure that your distribution has fixed it, and let only trusted users connect",
    )


def is_fixed(version: str, fixed_in: Releases) -> bool:
    """Whether a release has the fix; one without a version number counts as fixed."""
    numbers = tuple(int(number) for number in version.split(".") if number.isdigit())
    if not numbers:
        return True
    newest = max(fixed_in)
    return numbers >= fixed_in.get(numbers[0], fixed_in[newest])
