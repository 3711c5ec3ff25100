"""Chat messages and tools as cells hold them, brought into the form that chat templates take."""

from __future__ import annotations

import json
from typing import Any

from parquetry.schemas.errors import RowError

Message = dict[str, Any]
Tool = dict[str, Any]
#: text, or a list of content parts: {"type": "text", "text": ...} and {"type": "image"}
Content = str | list[dict[str, Any]]


def text_part(text: str) -> dict[str, str]:
    """A content part that holds text."""
    return {"type": "text", "text": text}


def user_turn(content: Content) -> list[Message]:
    """The messages of a conversation in which only the user has spoken."""
    return [{"role": "user", "content": content}]


def user_message(text: str, system: str | None, *, num_images: int = 0) -> list[Message]:
    """The messages of a rendered prompt template; images stand before its text."""
    images = [{"type": "image"} for _ in range(num_images)]
    return with_system(user_turn([*images, text_part(text)] if images else text), system)


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put the spec's system prompt first, unless the row brings its own."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def read_messages(column: str, value: Any, images: list[Any] | None = None) -> list[Message]:
    """The messages in one cell: a list of structs with role and content, or the same as JSON text. Raises RowError.

    Content is text, or a list of content parts; None in an assistant's message that calls tools and says nothing. The
    path or URL of each image is added to `images`, None for a mere placeholder; without a list, images are refused.
    """
    if value is None:
        raise RowError(reason=f"{column} is null")
    messages = _listed(column, value, within="messages")
    if not messages:
        raise RowError(reason=f"{column} is not a list with at least one message")
    return [_read_message(f"{column}: message {number}", message, images) for number, message in enumerate(messages)]


def read_tools(column: str, value: Any) -> list[Tool] | None:
    """The tool schemas in one cell: a list of structs, or the same as JSON text; None where it is null or empty.

    Raises RowError.
    """
    tools = [] if value is None else _listed(column, value)
    wrong = next((number for number, tool in enumerate(tools) if not isinstance(tool, dict) or not tool), None)
    if wrong is not None:
        raise RowError(reason=f"{column}: tool {wrong} is not an object")
    return tools or None


def _listed(column: str, value: Any, *, within: str | None = None) -> list[Any]:
    """The list in a cell, or in the field `within` of the object in it, as OpenAI's requests have their messages."""
    # Arrow fills the fields that an item lacks with nulls; in JSON a null was written
    found = _parse_json(column, value) if isinstance(value, str) else without_nulls(value)
    if within is not None and isinstance(found, dict):
        found = found.get(within)
    if not isinstance(found, list):
        raise RowError(reason=f"{column} is not a list")
    return found


def without_nulls(value: Any) -> Any:
    """The value with every field of a struct left out that is null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _parse_json(column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(reason=f"{column} is not valid JSON: {str(error)[:100]}") from None


def _read_message(where: str, message: Any, images: list[Any] | None) -> Message:
    if not isinstance(message, dict):
        raise RowError(reason=f"{where} is not an object")
    if not isinstance(message.get("role"), str):
        raise RowError(reason=f"{where} has no text as its role")
    present = {key: value for key, value in message.items() if value is not None}
    if calls := present.get("tool_calls"):
        present["tool_calls"] = _read_calls(where, calls)
    return {**present, "content": _read_content(where, present, images)}


def _read_content(where: str, message: Message, images: list[Any] | None) -> Content | None:
    content = message.get("content")
    if isinstance(content, list) and content:
        return [_read_content_part(where, part, images) for part in content]
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise RowError(reason=f"{where} has no text as its content")
    return content


def _read_calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise RowError(reason=f"{where} has tool_calls that are no list of objects")
    return calls


def _read_content_part(where: str, part: Any, images: list[Any] | None) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return text_part(part["text"])
    if kind not in ("image", "image_url"):
        raise RowError(reason=f"{where} has a content part that is neither text nor an image")
    if images is None:
        raise RowError(reason=f"{where} holds an image; name the column that images come from in prompt.image")
    images.append(_image_of(part))
    return {"type": "image"}


def _image_of(part: dict[str, Any]) -> Any:
    """The path or URL in an image's content part, None where it names none."""
    found = next((part[key] for key in ("image", "image_url", "url", "path") if part.get(key)), None)
    return found.get("url") or found.get("path") if isinstance(found, dict) else found
