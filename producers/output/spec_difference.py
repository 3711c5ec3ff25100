"""In which keys two job specs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from parquetry.schemas.spec.job import FREE_KEYS, JobSpec

_MAX_SHOWN = 60


class Difference(NamedTuple):
    """One key, and its value in either spec."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        old, new = _shown(self.old, self.new)
        return f"{self.key} ({old} there, {new} here)"


def differences(old: JobSpec, new: JobSpec) -> list[Difference]:
    """The keys that differ, in the order of the spec."""
    before, after = dict(_leaves(old.model_dump(mode="json"))), dict(_leaves(new.model_dump(mode="json")))
    keys = [key for key in before if key not in FREE_KEYS]
    return [Difference(key, before[key], after[key]) for key in keys if before[key] != after[key]]


def as_text(found: Sequence[Difference]) -> str:
    """All of them in one sentence."""
    return ", ".join(map(str, found))


def _leaves(sections: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys as the command line writes them; a mapping within a section is one value."""
    for name, value in sections.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _shown(old: Any, new: Any) -> tuple[str, str]:
    """Both as JSON; of long ones what lies about the first place where they differ."""
    texts = [json.dumps(value, ensure_ascii=False) for value in (old, new)]
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
    start = max(0, alike - _MAX_SHOWN // 3)
    first, second = (_cut(text, start) for text in texts)
    return first, second


def _cut(text: str, start: int) -> str:
    if len(text) <= _MAX_SHOWN:
        return text
    piece = text[start : start + _MAX_SHOWN]
    return ("..." if start else "") + piece + ("..." if start + _MAX_SHOWN < len(text) else "")
