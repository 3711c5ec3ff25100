"""What a look at a machine or a broker found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class Finding:
    """One observation and what to do about it."""

    name: str
    level: Level
    text: str
    fix: str = ""

    @property
    def is_ok(self) -> bool:
        return self.level is Level.OK
