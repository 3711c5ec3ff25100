"""How a family is served, and whether its answers are right."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import transformers

from parquetry.schemas.errors import ParquetryError
from tests.families.answers import differ, differences, ours, wanted
from tests.families.family import Family

#: how a family may be served, from the fastest way on; the last two ask for work
WAYS = ("packed", "padded", "equal lengths only", "one row at a time", "refused", "wrong", "undecided")
_MAX_REASON = 300


@dataclass(frozen=True)
class Verdict:
    """One line of the sweep."""

    kind: str
    task: str
    way: str
    reason: str = ""
    seconds: float = 0.0
    transformers: str = transformers.__version__

    @property
    def fields(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self)


def judge(family: Family, folder: Path) -> Verdict:
    """Make the family's model in `folder` and compare our answers with transformers'."""
    begin = time.monotonic()
    way, reason = _judge(family, folder)
    seconds = round(time.monotonic() - begin, 1)
    return Verdict(family.kind, family.task, way, " ".join(reason.split())[:_MAX_REASON], seconds)


def _judge(family: Family, folder: Path) -> tuple[str, str]:
    try:
        family.make(folder)
        want = wanted(family, folder)
    # a family's own classes may raise anything, and then there is nothing to compare with
    except Exception as error:  # noqa: BLE001
        return "undecided", f"no tiny model that transformers itself runs: {_sentence(error)}"
    eager = _eager(family, folder)
    if eager is None or not differ(eager, want) or differ(want, wanted(family, folder)):
        return _decided(family, folder, want)
    # attention that is written out is what a kernel is held against
    way, reason = _decided(family, folder, eager, "eager")
    return way, f"transformers' sdpa differs from its eager attention, with which it is compared. {reason}"


def _eager(family: Family, folder: Path) -> list[np.ndarray] | None:
    """transformers' answers under its eager attention, None where it has none that runs."""
    try:
        return wanted(family, folder, "eager")
    # a family's own classes may raise anything
    except Exception:  # noqa: BLE001
        return None


def _decided(family: Family, folder: Path, want: list[np.ndarray], attention: str | None = None) -> tuple[str, str]:
    found = _compared(family, folder, want)
    if found[0] == "wrong" and differ(want, wanted(family, folder, attention)):
        return "undecided", "transformers itself gives other answers the second time: its layers draw random numbers"
    return found


def _compared(family: Family, folder: Path, want: list[np.ndarray]) -> tuple[str, str]:
    auto = _served(family, folder, want, "auto")
    if family.task == "generate" or auto[0] == "wrong":
        return auto
    # encoders are packed on a CPU only when that is asked for
    packed = _served(family, folder, want, "packed")
    return packed if packed[0] in ("packed", "wrong") else (auto[0], packed[1] if auto[0] == "padded" else auto[1])


def _served(family: Family, folder: Path, want: list[np.ndarray], backend: str) -> tuple[str, str]:
    try:
        found, about = ours(family, folder, backend)
    except ParquetryError as error:
        return "refused", str(error).removeprefix("model.backend packed is not supported: ")
    # what no sentence of ours explains is a fault of ours
    except Exception as error:  # noqa: BLE001
        return "wrong", f"backend {backend} raises {_sentence(error)}"
    if wrong := differences(found, want):
        return "wrong", f"{about['backend']}: {'; '.join(wrong)}"
    return _way(about)


def _way(about: dict[str, str]) -> tuple[str, str]:
    if "one_row_at_a_time" in about:
        return "one row at a time", about["one_row_at_a_time"]
    if "equal_lengths_only" in about:
        return "equal lengths only", about["equal_lengths_only"]
    return ("padded", about["why_not_packed"]) if "why_not_packed" in about else ("packed", "")


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}"
