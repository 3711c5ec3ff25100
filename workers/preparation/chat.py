"""Chat templates: a model's own Jinja text that turns messages into its prompt format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from parquetry.schemas.errors import RowError, TemplateError, UnsupportedOptionError
from parquetry.schemas.job import PromptSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.sandbox import MAX_TEMPLATE_CHARS, BoundedEnvironment

Message = dict[str, Any]
#: text, or a list of parts: {"type": "text", "text": ...} and {"type": "image"}
Content = str | list[dict[str, Any]]
_MARK = "a mark of ours"


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; here it only stands for what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatTemplate:
    """A model's chat template. Not shared between threads."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], now: datetime) -> None:
        self._environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
        )
        self._environment.globals.update(raise_exception=_raise_exception, strftime_now=now.strftime)
        self._variables = {"tools": None, "documents": None, "add_generation_prompt": True, **special_tokens}
        self._template = self._environment.bounded_template(source)
        #: whether contents are given as lists of parts; vision models' templates tend to know nothing else
        self.takes_parts = False

    @classmethod
    def of(cls, checkpoint: Checkpoint, prompt: PromptSpec, *, now: datetime) -> ChatTemplate | None:
        """The template to use, None for plain prompts.

        `now` is what templates that print a date get: the time of the job, so that every attempt gives the same text.
        Raises UnsupportedOptionError when the spec needs a chat template and the model has none.
        """
        source = checkpoint.chat_template
        if source is None:
            _require_plain(checkpoint, prompt)
            return None
        if prompt.chat is False:
            return None
        if len(source) > MAX_TEMPLATE_CHARS:
            raise TemplateError(reason="the model's chat template is too long")
        try:
            template = cls(source, checkpoint.special_tokens, now)
            template.takes_parts = checkpoint.is_vision and template.shows([text_part(_MARK)], _MARK)
            return template
        except jinja2.TemplateError as error:
            raise TemplateError(reason=f"the model's chat template has an error: {error}") from None

    def render(self, messages: list[Message]) -> str:
        """The prompt, ending where the assistant's answer begins. Raises RowError."""
        shape = _as_parts if self.takes_parts else _as_text
        return self._render([{**message, "content": shape(message["content"])} for message in messages])

    @property
    def shows_images(self) -> bool:
        """Whether an image part leaves a trace in the prompt."""
        text = text_part(_MARK)
        try:
            return self.takes_parts and self._render(_user([text])) != self._render(_user([{"type": "image"}, text]))
        except RowError:
            return False

    def shows(self, content: Content, text: str) -> bool:
        """Whether a user's message of this content comes out with `text` in it, and not as a list in Python's way."""
        try:
            prompt = self._render(_user(content))
        except RowError:
            return False
        return text in prompt and "'type'" not in prompt

    def _render(self, messages: list[Message]) -> str:
        try:
            return self._environment.render(self._template, {**self._variables, "messages": messages})
        # the template is the model's program: what it cannot render is the fault of this row's messages
        except Exception as error:  # noqa: BLE001
            raise RowError(reason=f"the chat template failed: {str(error)[:200] or type(error).__name__}") from None


def text_part(text: str) -> dict[str, str]:
    """A part of a message's content."""
    return {"type": "text", "text": text}


def _user(content: Content) -> list[Message]:
    return [{"role": "user", "content": content}]


def _as_parts(content: Content) -> Content:
    return [text_part(content)] if isinstance(content, str) else content


def _as_text(content: Content) -> Content:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _require_plain(checkpoint: Checkpoint, prompt: PromptSpec) -> None:
    wanted = {"prompt.chat": prompt.chat is True, "prompt.messages": prompt.messages, "prompt.system": prompt.system}
    option = next((name for name, value in wanted.items() if value), None)
    if option:
        reason = "the model has no chat template; use an instruction-tuned model, or only prompt.template"
        raise UnsupportedOptionError(option=f"{option} with model {checkpoint.id}", reason=reason)


def user_message(text: str, system: str | None, *, num_images: int = 0) -> list[Message]:
    """The messages of a rendered prompt template; images stand before its text."""
    images = [{"type": "image"} for _ in range(num_images)]
    return with_system(_user([*images, text_part(text)] if images else text), system)


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put the spec's system prompt first, unless the row brings its own."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def read_messages(column: str, value: Any, images: list[Any] | None = None) -> list[Message]:
    """The messages in one cell: a list of structs with role and content, or the same as JSON text. Raises RowError.

    Content is text, or a list of parts. What image parts name is added to `images`, None for a part that only marks a
    place; without a list, image parts are refused.
    """
    if value is None:
        raise RowError(reason=f"{column} is null")
    if isinstance(value, str):
        value = _parse_json(column, value)
    if not isinstance(value, list) or not value:
        raise RowError(reason=f"{column} is not a list with at least one message")
    return [_read_message(column, number, message, images) for number, message in enumerate(value)]


def _parse_json(column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(reason=f"{column} is not valid JSON: {str(error)[:100]}") from None


def _read_message(column: str, number: int, message: Any, images: list[Any] | None) -> Message:
    if not isinstance(message, dict):
        raise RowError(reason=f"{column}: message {number} is not an object")
    where = f"{column}: message {number}"
    if not isinstance(message.get("role"), str):
        raise RowError(reason=f"{where} has no text as its role")
    content = message.get("content")
    if isinstance(content, list) and content:
        content = [_read_part(where, part, images) for part in content]
    elif not isinstance(content, str):
        raise RowError(reason=f"{where} has no text as its content")
    present = {key: value for key, value in message.items() if value is not None}
    return {**present, "content": content}


def _read_part(where: str, part: Any, images: list[Any] | None) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return text_part(part["text"])
    if kind not in ("image", "image_url"):
        raise RowError(reason=f"{where} has a part that is neither text nor an image")
    if images is None:
        raise RowError(reason=f"{where} holds an image; name the column that images come from in prompt.image")
    images.append(_image_of(part))
    return {"type": "image"}


def _image_of(part: dict[str, Any]) -> Any:
    """The path or URL in an image part, None where it names none."""
    found = next((part[key] for key in ("image", "image_url", "url", "path") if part.get(key)), None)
    return found.get("url") or found.get("path") if isinstance(found, dict) else found
