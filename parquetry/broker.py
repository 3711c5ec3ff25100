"""Opens the ledger of the configured broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parquetry.schemas.errors import WrongSettingError
from parquetry.schemas.settings import settings

if TYPE_CHECKING:
    from parquetry.tasks.ledger.ledger import Ledger


class NoBrokerError(WrongSettingError):
    """No broker is configured; set PARQUETRY_BROKER_URL (redis://host:6379/0), or use `parquetry run`, which starts
    its own."""


def configured_url() -> str:
    """PARQUETRY_BROKER_URL or broker_url of the operator's file. Raises NoBrokerError when neither is set."""
    url = settings().broker_url
    if url is None:
        raise NoBrokerError()
    return url


def open_ledger(url: str | None = None) -> Ledger:
    """The ledger at `url`, or at the configured broker. Raises BrokerUnreachableError."""
    from parquetry.tasks.broker.connection import connect
    from parquetry.tasks.ledger.ledger import Ledger

    return Ledger(connect(url or configured_url()), settings().env)
