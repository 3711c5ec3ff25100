"""The one way to Redis: URLs, timeouts, and errors in our own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from parquetry.schemas.errors import BrokerNotServingError, BrokerRefusedError, BrokerUnreachableError, redact
from parquetry.tasks.broker.sentinel import SentinelUrl
from parquetry.tasks.keys import Keys

#: a silent peer is noticed after this long
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
HEALTH_CHECK_S = 5
#: a command may be sent twice: every script is idempotent, or leaves a lease that ends by itself
RETRIES = 3
RETRYABLE = (redis.ConnectionError, redis.TimeoutError, ConnectionError, TimeoutError)
WRONG_USER = (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError)
#: what a server replies while it is full, a replica, unable to save, loading, or busy with a script: all of it passes
PASSING_CODES = frozenset(
    {"OOM", "READONLY", "MISCONF", "LOADING", "BUSY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN"}
)
PASSING = (
    *(redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError, redis.exceptions.BusyLoadingError),
    *(redis.exceptions.MasterDownError, redis.exceptions.TryAgainError, redis.exceptions.ClusterDownError),
)


def connect(url: str, *, timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """A client that answers, with text replies.

    Raises BrokerUnreachableError, or BrokerRefusedError for a Redis Cluster, a user or password that it does not take,
    and a URL of unknown form.
    """
    with translated(url):
        client = _client(url, timeout_s)
        try:
            client.ping()
        except WRONG_USER as error:
            # redis-py counts it among lost connections; whoever waits for it waits for ever
            raise BrokerRefusedError(url=redact(url), reason=_reason(error)) from None
        _refuse_cluster(client, url)
    return client


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn errors of the connection into ours, which name the broker without its password."""
    try:
        yield
    except (*RETRYABLE, MasterNotFoundError, RedisError) as error:
        if is_passing(error):
            raise BrokerNotServingError(url=redact(url), reason=_reason(error)) from None
        if isinstance(error, (*RETRYABLE, MasterNotFoundError)):
            raise no_connection(url, error) from None
        raise BrokerRefusedError(url=redact(url), reason=_reason(error)) from None
    except ValueError as error:
        raise BrokerRefusedError(url=redact(url), reason=_reason(error)) from None


def is_passing(error: Exception) -> bool:
    """Whether a server that answers refuses for a reason that goes away without anybody changing the URL."""
    # only some have a class of their own; a script's error keeps the code in front
    return isinstance(error, PASSING) or str(error).partition(" ")[0] in PASSING_CODES


def no_connection(url: str, error: Exception) -> BrokerUnreachableError | BrokerRefusedError:
    """The error to raise when no connection came about: retryable, except for a certificate that is not trusted."""
    _, untrusted, why = str(error).rpartition("certificate verify failed: ")
    if not untrusted:
        return BrokerUnreachableError(url=redact(url), reason=_reason(error))
    # the text goes on with a line number in the C source of a library
    why = why.partition(" (_ssl")[0]
    fix = "name its CA in the URL, as in rediss://host:6379/0?ssl_ca_certs=/path/ca.pem"
    return BrokerRefusedError(url=redact(url), reason=f"its certificate is not to be trusted ({why}); {fix}")


def _reason(error: Exception) -> str:
    if isinstance(error, MasterNotFoundError):
        return "no Sentinel that answers knows the master"
    if isinstance(error, ValueError) and "Port could not be cast" in str(error):
        # what stands where the port belongs may be a part of the password
        return "its port is no number; in a password, # / ? and @ are written %23 %2F %3F and %40"
    return (str(error).strip().rstrip(".") or type(error).__name__)[:200]


def _client(url: str, timeout_s: float) -> redis.Redis:
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout_s,
        "health_check_interval": HEALTH_CHECK_S,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES, supported_errors=RETRYABLE),
    }
    if not url.startswith("redis+socket://"):
        options |= {"socket_connect_timeout": min(CONNECT_TIMEOUT_S, timeout_s), "socket_keepalive": True}
    if url.startswith("sentinel://"):
        return SentinelUrl.parse(url).connect(CONNECT_TIMEOUT_S, **options)
    return redis.Redis.from_url(redis_url(url), **options)


def redis_url(url: str) -> str:
    """redis-py's form: kombu says redis+socket:// and virtual_host where redis-py says unix:// and db."""
    if not url.startswith("redis+socket://"):
        return url
    split = urlsplit(url)
    db = dict(parse_qsl(split.query)).get("virtual_host", "0")
    return f"unix://{split.netloc}{split.path}?db={db}"


def kombu_url(url: str) -> str:
    """kombu's form of a broker URL."""
    if url.startswith("sentinel://"):
        return SentinelUrl.parse(url).kombu_url
    if url.startswith("rediss://") and "ssl_cert_reqs=" not in url:
        # without an option of TLS in the URL kombu would talk plain text to it
        return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"
    return url


def transport_options(url: str, env: str) -> dict[str, Any]:
    """kombu's options: every process of an environment must use the same."""
    options: dict[str, Any] = {
        "global_keyprefix": Keys(env).prefix,
        # one list a queue, so that its length is the number of permits
        "priority_steps": [0],
        "queue_order_strategy": "priority",
        # covers only permits fetched and not yet started; shards have leases
        "visibility_timeout": 3600,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "health_check_interval": HEALTH_CHECK_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
    }
    if url.startswith("sentinel://"):
        options["master_name"] = SentinelUrl.parse(url).master
    return options


def _refuse_cluster(client: redis.Redis, url: str) -> None:
    if server_info(client, "cluster").get("cluster_enabled"):
        reason = (
            "it is a Redis Cluster, where a claim cannot look at several jobs in one step and Celery's queues do not"
            " work; use a single server, or Sentinel for failover"
        )
        raise BrokerRefusedError(url=redact(url), reason=reason)


def server_info(client: redis.Redis, section: str) -> dict[str, Any]:
    """INFO, or nothing where the user's ACL forbids it."""
    try:
        return client.info(section)
    except redis.exceptions.NoPermissionError:
        return {}


def address_of(client: redis.Redis) -> str:
    """Where a client is connected to, without its password."""
    options = client.connection_pool.connection_kwargs
    if "path" in options:
        return f"redis+socket://{options['path']}"
    if "host" not in options:
        return "sentinel"
    scheme = "rediss" if issubclass(client.connection_pool.connection_class, redis.SSLConnection) else "redis"
    return f"{scheme}://{options['host']}:{options['port']}"
