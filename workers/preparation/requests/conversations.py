"""The conversation of a chat request: its messages, its tools, and how hard the model is to think."""

from __future__ import annotations

from typing import Any, NamedTuple

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.conversation import Message, Tool
from parquetry.workers.preparation.requests.body import Body, as_mapping, refuse

_ROLES = frozenset({"system", "user", "assistant", "tool"})
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class Conversation(NamedTuple):
    """What the chat template is given."""

    messages: list[Message]
    tools: list[Tool] | None
    effort: str | None


def read_conversation(body: Body) -> Conversation:
    """The conversation of a body. Raises RowError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        refuse("messages", "it is required, and it is a list with at least one message")
    read = [_message(f"message {number}", message) for number, message in enumerate(messages)]
    return Conversation(read, _tools(body), _effort(body))


def _message(where: str, message: Any) -> Message:
    if not isinstance(message, dict):
        refuse("messages", f"{where} is no object")
    # OpenAI's newer name for the system's
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in _ROLES:
        refuse("messages", f"{where} has the role {str(role)[:40]!r}; known are {', '.join(sorted(_ROLES))}")
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        if as_mapping(part).get("type") != "text":
            kind = str(as_mapping(part).get("type"))[:40]
            refuse(
                "messages", f"{where} has a content part of type {kind!r}, and requests are answered from text alone"
            )
    return {**message, "role": role}


def _tools(body: Body) -> list[Tool] | None:
    """The tools that the model is told of. Raises RowError for a choice that nothing here enforces."""
    tools = body.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) and tool for tool in tools)):
        refuse("tools", "it is a list of objects")
    choice = body.get("tool_choice", "auto")
    if choice not in ("auto", "none"):
        refuse("tool_choice", "it is auto or none: a call that is required or named cannot be enforced here")
    return None if choice == "none" else tools or None


def _effort(body: Body) -> str | None:
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        refuse("reasoning_effort", f"it is one of {', '.join(_EFFORTS)}")
    return effort


def without_place(key: str) -> RowError:
    """What is said of a key that the model's chat template never reads."""
    return RowError(reason=f"{key}: the model's chat template has no place for it; leave it out")
