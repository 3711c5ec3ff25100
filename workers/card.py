"""What the device can do, as far as loading depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One device: its kind (cpu or cuda), name, compute capability and memory in bytes."""

    kind: str
    name: str
    capability: tuple[int, int] | None
    total_bytes: int

    @classmethod
    def of(cls, device: str) -> Card:
        """The card behind `cpu` or `cuda:0`. The only place of this room's checks that loads torch."""
        if device == "cpu":
            return cpu_card()
        import torch

        properties = torch.cuda.get_device_properties(torch.device(device))
        return cls("cuda", properties.name, (properties.major, properties.minor), properties.total_memory)

    @property
    def description(self) -> str:
        """Name and capability for a sentence."""
        if self.capability is None:
            return "this worker runs on a CPU"
        return f"{self.name} has compute capability {self.capability[0]}.{self.capability[1]}"

    def reaches(self, capability: tuple[int, int]) -> bool:
        """Whether it is a CUDA card of at least this compute capability."""
        return self.capability is not None and self.capability >= capability


def cpu_card() -> Card:
    """The machine's own memory, as a device."""
    return Card("cpu", "CPU", None, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def cards(device: str) -> dict[int | str, Card]:
    """Every device an engine may spread over, by accelerate's names: card numbers, then `cpu`."""
    found: dict[int | str, Card] = {"cpu": cpu_card()}
    if device == "cpu":
        return found
    import torch

    numbers = range(torch.cuda.device_count())
    return {**{number: Card.of(f"cuda:{number}") for number in numbers}, **found}
