"""What a plan can know of devices and of earlier jobs: from this machine, and from a queue where one is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from parquetry.broker import open_ledger
from parquetry.schemas.errors import BrokerUnreachableError
from parquetry.schemas.settings import settings

if TYPE_CHECKING:
    from parquetry.producers.plan.target import Target
    from parquetry.tasks.earlier_jobs import EarlierJob


class Evidence(NamedTuple):
    """What was found, and what could not be asked."""

    target: Target
    paces: list[EarlierJob]
    problems: tuple[str, ...] = ()


def gather_evidence(card: str | None) -> Evidence:
    """For the card of that name, else for that of the living workers, else for this machine's. Raises
    UnknownCardError."""
    from parquetry.producers.plan.target import Target
    from parquetry.tasks.earlier_jobs import known_paces

    named = Target.of(card) if card is not None else None
    if settings().broker_url is None:
        return Evidence(named or Target.of(), known_paces())
    try:
        ledger = open_ledger()
        return Evidence(named or Target.of(workers=ledger.workers()), known_paces(ledger))
    except BrokerUnreachableError as error:
        return Evidence(named or Target.of(), known_paces(), (f"what workers and jobs of the queue tell: {error}",))
