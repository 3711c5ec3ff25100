"""Where webhooks may go: https hosts that the operator lists, or whole origins, and no address that only we can see."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from parquetry.schemas.settings import settings


class RefusedAddressError(Exception):
    """An address that no webhook may go to, with a sentence on why."""


@dataclass(frozen=True)
class WebhookHosts:
    """PARQUETRY_WEBHOOK_HOSTS: host names, `*.name` for all below one, or origins such as http://10.0.0.5:8080."""

    listed: tuple[str, ...]

    @classmethod
    def of_settings(cls) -> WebhookHosts:
        """Those that the operator of this process lists."""
        return cls(tuple(entry.lower().rstrip("/") for entry in settings().webhook_hosts))

    def objection(self, url: str) -> str | None:
        """Why the URL is refused by what is written in it, None where it is not."""
        split = urlsplit(url)
        if _origin(split) in self.listed:
            return None
        host = split.hostname or ""
        if not any(host == entry or (entry.startswith("*.") and host.endswith(entry[1:])) for entry in self.listed):
            return f"the host {host} is not one that the operator lists in PARQUETRY_WEBHOOK_HOSTS"
        return None if split.scheme == "https" else "it must be an https:// address"

    def address(self, url: str) -> str:
        """The IP address to connect to, resolved once: what a name means may change between a check and its use.

        Raises RefusedAddressError, also where the name means a private, link-local or other address of no public
        host, unless the operator lists the whole origin; OSError when the name is not known.
        """
        if objection := self.objection(url):
            raise RefusedAddressError(objection)
        split = urlsplit(url)
        found = socket.getaddrinfo(split.hostname, split.port or split.scheme, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        inner = next((address for address in addresses if not _is_public(address)), None)
        if inner is not None and _origin(split) not in self.listed:
            raise RefusedAddressError(f"{split.hostname} is at {inner}, which is no public address")
        return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return (mapped or ip).is_global and not ip.is_multicast


def _origin(split: SplitResult) -> str:
    return f"{split.scheme}://{split.netloc.rpartition('@')[2]}".lower()
