"""What makes two workers alike: a job that one of them cannot run is none for the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from parquetry.schemas import __version__
from parquetry.workers.card import cpu_card
from parquetry.workers.gpu_meter import gpus_of


def kind_of(device: str, offers: Sequence[str] | None) -> str:
    """The cards or the memory of a device, and a digest of what is installed beside it."""
    cards = [gpu.card for gpu in gpus_of(device)] or [cpu_card()]
    # two machines of one size differ by some megabytes
    named = [f"{card.name} {round(card.total_bytes / 2**30)} GiB" for card in cards]
    digest = hashlib.sha256(repr((__version__, offers)).encode()).hexdigest()[:8]
    return " ".join([" + ".join(named), digest])
