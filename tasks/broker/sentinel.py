"""Sentinel URLs: sentinel://[user:password@]host[:port],host[:port]/master[/db]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from parquetry.schemas.errors import BrokerRefusedError, redact

DEFAULT_PORT = 26379


@dataclass(frozen=True, kw_only=True)
class SentinelUrl:
    """What a Sentinel URL says."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    db: int
    #: percent-encoded "user:password@", or empty
    login: str

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Raises BrokerRefusedError when no master is named."""
        split = urlsplit(url)
        login, at, hosts = split.netloc.rpartition("@")
        master, _, db = split.path.strip("/").partition("/")
        if not master or not (db or "0").isdigit():
            reason = "a Sentinel URL names its master, as in sentinel://host:26379,host:26379/mymaster/0"
            raise BrokerRefusedError(url=redact(url), reason=reason)
        return cls(hosts=tuple(map(_host_and_port, hosts.split(","))), master=master, db=int(db or 0), login=login + at)

    def connect(self, timeout_s: float, **options: Any) -> redis.Redis:
        """A client of whichever server is the master at the time."""
        username, _, password = self.login.rstrip("@").partition(":")
        # the client's own retry covers a failover; asking each Sentinel many times as well would only add to it
        asking = {"socket_timeout": timeout_s, "retry": Retry(NoBackoff(), 0)}
        sentinel = Sentinel(list(self.hosts), sentinel_kwargs=asking)
        return sentinel.master_for(
            self.master, db=self.db, username=unquote(username) or None, password=unquote(password) or None, **options
        )

    @property
    def kombu_url(self) -> str:
        """What kombu wants; it takes the master's name as a transport option."""
        return ";".join(f"sentinel://{self.login}{host}:{port}/{self.db}" for host, port in self.hosts)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port) if port.isdigit() else DEFAULT_PORT
