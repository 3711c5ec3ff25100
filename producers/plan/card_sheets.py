"""Cards by name, as their makers describe them: what a plan reckons with where the card is not here.

Rates are dense ones, without sparsity, with sums in float32. Memory is what the driver tells (`nvidia-smi`), a little
less than the name of the card says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from parquetry.schemas.errors import BadInputError, suggestion
from parquetry.workers.card import Card


class UnknownCardError(BadInputError):
    """There is no card {card!r} in the table{suggestion}; known are {known}."""


@dataclass(frozen=True)
class CardSheet:
    """One kind of card."""

    name: str
    #: finds it in the names that drivers tell
    pattern: str
    capability: tuple[int, int]
    memory_mib: int
    #: terabytes a second
    bandwidth: float
    #: TFLOP/s of bfloat16, of float16 where there is none
    half_rate: float
    #: TFLOP/s of float8, None where there is none
    fp8_rate: float | None
    source: str

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib << 20

    @property
    def card(self) -> Card:
        """The card as loading sees it."""
        return Card("cuda", self.name, self.capability, self.memory_bytes)

    def matches(self, driver_name: str) -> bool:
        """Whether a card of that name is one of these."""
        return re.search(self.pattern, driver_name, re.IGNORECASE) is not None


#: a name is taken by the first sheet that matches it
CARD_SHEETS = {
    "b200": CardSheet(
        "NVIDIA B200", r"\bB200\b", (10, 0), 183_359, 8.0, 2250, 4500, "NVIDIA DGX B200 datasheet, an eighth of it"
    ),
    "h200": CardSheet(
        "NVIDIA H200", r"\bH200\b", (9, 0), 143_771, 4.8, 989, 1979, "NVIDIA H200 datasheet, SXM"
    ),
    "h100-pcie": CardSheet(
        "NVIDIA H100 PCIe", r"\bH100 PCIe\b", (9, 0), 81_559, 2.0, 756, 1513, "NVIDIA H100 datasheet, PCIe"
    ),
    "h100": CardSheet("NVIDIA H100", r"\bH100\b", (9, 0), 81_559, 3.35, 989, 1979, "NVIDIA H100 datasheet, SXM"),
    "a100-40": CardSheet(
        "NVIDIA A100 40GB", r"\bA100.*40GB", (8, 0), 40_960, 1.555, 312, None, "NVIDIA A100 datasheet, 40 GB"
    ),
    "a100": CardSheet("NVIDIA A100", r"\bA100\b", (8, 0), 81_920, 2.039, 312, None, "NVIDIA A100 datasheet, SXM 80 GB"),
    "l40s": CardSheet("NVIDIA L40S", r"\bL40S\b", (8, 9), 46_068, 0.864, 362, 733, "NVIDIA L40S datasheet"),
    "l4": CardSheet("NVIDIA L4", r"\bL4\b", (8, 9), 23_034, 0.3, 121, 242, "NVIDIA L4 datasheet, half its rates"),
    "a10g": CardSheet("NVIDIA A10G", r"\bA10G\b", (8, 6), 23_028, 0.6, 70, None, "A10G product brief"),
    "a10": CardSheet("NVIDIA A10", r"\bA10\b", (8, 6), 23_028, 0.6, 125, None, "NVIDIA A10 datasheet"),
    "rtx-6000-ada": CardSheet(
        "NVIDIA RTX 6000 Ada", r"\bRTX 6000 Ada\b", (8, 9), 49_140, 0.96, 364, 728, "NVIDIA Ada architecture paper"
    ),
    "5090": CardSheet(
        "NVIDIA GeForce RTX 5090", r"\b5090\b", (12, 0), 32_607, 1.792, 209, 419, "NVIDIA RTX Blackwell paper"
    ),
    "4090": CardSheet(
        "NVIDIA GeForce RTX 4090", r"\b4090\b", (8, 9), 24_564, 1.008, 165, 330, "NVIDIA Ada architecture paper"
    ),
    "3090": CardSheet(
        "NVIDIA GeForce RTX 3090", r"\b3090\b", (8, 6), 24_576, 0.936, 71, None, "NVIDIA Ampere GA102 paper"
    ),
    "t4": CardSheet("Tesla T4", r"\bT4\b", (7, 5), 15_360, 0.32, 65, None, "NVIDIA T4 datasheet, float16"),
}  # fmt: skip


def find_sheet(card: str) -> CardSheet:
    """By its name in the table, or by what a driver calls it. Raises UnknownCardError."""
    named = card.strip().lower().removeprefix("nvidia ").removeprefix("rtx ").replace(" ", "-").replace("_", "-")
    found = CARD_SHEETS.get(named) or sheet_of(card)
    if found is None:
        raise UnknownCardError(card=card, suggestion=suggestion(named, CARD_SHEETS), known=", ".join(CARD_SHEETS))
    return found


def sheet_of(driver_name: str) -> CardSheet | None:
    """The sheet of a card by the name that a driver tells; None for another, and for a part of one (MIG)."""
    return None if " MIG " in driver_name else _first(CARD_SHEETS.values(), driver_name)


def _first(sheets: Iterable[CardSheet], driver_name: str) -> CardSheet | None:
    return next((sheet for sheet in sheets if sheet.matches(driver_name)), None)
