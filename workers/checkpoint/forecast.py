"""How a family of models is served, as far as it was tried: what plan announces before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from parquetry.schemas.spec.job import Task

#: written by `python -m tests.families --page`
FILE = Path(__file__).with_name("families.json")
_SLOW = {
    "padded": "padded batches, sorted by length",
    "equal lengths only": "padded batches of rows of one length",
    "one row at a time": "one row at a time",
}


@dataclass(frozen=True)
class Forecast:
    """How a model of a family will most likely run; the engine decides when it loads the model, by trying it."""

    #: packed, padded, equal lengths only, one row at a time, refused, undecided, or unknown
    way: str
    #: why it is not packed
    reason: str = ""

    @classmethod
    def of(cls, task: Task, model_type: str) -> Forecast:
        """Of a `model_type` of config.json; unknown where no model of that family was tried for this task."""
        name = {"generate": "generate", "embed": "embed"}.get(task, "classify")
        return cls(*_families()[name].get(model_type, ("unknown",)))

    @property
    def text(self) -> str:
        """In a few words."""
        if self.way == "packed":
            return "packed, without padding"
        if self.way in _SLOW:
            return f"{_SLOW[self.way]}: {self.reason}"
        return f"packed if its check passes; this family is {self.way}{f' ({self.reason})' if self.reason else ''}"

    @property
    def is_slow(self) -> bool:
        """Whether rows are padded, or wait for each other."""
        return self.way in _SLOW


def is_known_family(model_type: str) -> bool:
    """Whether transformers has classes of its own for this `model_type` of config.json."""
    return any(model_type in families for families in _families().values())


@cache
def _families() -> dict[str, dict[str, list[str]]]:
    return json.loads(FILE.read_text(encoding="utf-8"))
