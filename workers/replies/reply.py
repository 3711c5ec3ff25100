"""One output in parts."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class ToolCall(NamedTuple):
    """A call of a tool, its arguments as JSON."""

    name: str
    arguments: str


class Reply(NamedTuple):
    """What is left of an output without the other two, None or empty where there are none."""

    answer: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing was split off."""
        return self.reasoning is None and not self.tool_calls


def tool_call(found: Any) -> ToolCall | None:
    """The call that a JSON object stands for, None for any other value."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    given: Any = next((found[key] for key in ("arguments", "parameters") if key in found), {})
    if isinstance(given, str):
        given = read_json(given)
    return ToolCall(found["name"], json_text(given)) if isinstance(given, dict) else None


def read_json(text: str) -> Any:
    """The value of JSON text, None for text that is cut short or none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_text(value: Any) -> str:
    """A value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)
