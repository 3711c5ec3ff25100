"""The card that a plan is for: a named one, that of the living workers, or this machine's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parquetry.producers.plan.card_sheets import CardSheet, find_sheet, sheet_of
from parquetry.schemas.progress.status import WorkerStatus
from parquetry.tasks.earlier_jobs import common_device, cpu_here
from parquetry.workers.card import Card
from parquetry.workers.gpus import GpuQueryError, visible_gpus


@dataclass(frozen=True)
class Target:
    """What is known of it."""

    #: as jobs that ran on it call it; None where devices differ or are not known
    device: str | None = None
    #: memory of the smallest, None for a CPU or where it is not known
    num_bytes: int | None = None
    #: None for a CPU, and for a card that is not in the table
    sheet: CardSheet | None = None
    #: the card was named, and need not be here
    is_named: bool = False
    #: why nothing is known of this machine's cards
    problem: str = ""

    @classmethod
    def of(cls, card: str | None = None, workers: Sequence[WorkerStatus] = ()) -> Target:
        """Raises UnknownCardError."""
        if card is not None:
            sheet = find_sheet(card)
            return cls(sheet.name, sheet.memory_bytes, sheet, is_named=True)
        return _of_workers(workers) if workers else _here()

    @property
    def is_device(self) -> Callable[[str], bool]:
        """Whether a job that ran on a device of that name tells of this one."""
        sheet = self.sheet
        if self.is_named and sheet is not None:
            return lambda name: sheet_of(name) == sheet
        return lambda name: name == self.device

    @property
    def card(self) -> Card | None:
        """The card as loading sees it; None where none was named."""
        return self.sheet.card if self.sheet is not None and self.is_named else None


def _of_workers(workers: Sequence[WorkerStatus]) -> Target:
    """That of the workers of the queue, if all have the same."""
    device = common_device(workers)
    sizes = [each.device_use.memory_total_bytes for each in workers if each.device_use is not None]
    known = [size for size in sizes if size]
    return Target(device, min(known, default=None), sheet_of(device) if device else None)


def _here() -> Target:
    try:
        gpus = visible_gpus()
    except GpuQueryError as error:
        return Target(problem=f"whether the weights fit is not known: {error}")
    if not gpus:
        return Target(cpu_here())
    names, smallest = {gpu.name for gpu in gpus}, min(gpu.total_bytes for gpu in gpus)
    name = names.pop() if len(names) == 1 else None
    return Target(name, smallest, sheet_of(name) if name else None)
