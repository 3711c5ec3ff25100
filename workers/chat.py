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

from schemas.errors import RowError, TemplateError, UnsupportedOptionError
from schemas.job import PromptSpec
from workers.checkpoint import Checkpoint
from workers.sandbox import MAX_TEMPLATE_CHARS, BoundedEnvironment

Message = dict[str, Any]


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
            return cls(source, checkpoint.special_tokens, now)
        except jinja2.TemplateError as error:
            raise TemplateError(reason=f"the model's chat template has an error: {error}") from None

    def render(self, messages: list[Message]) -> str:
        """The prompt, ending where the assistant's answer begins. Raises RowError."""
        try:
            return self._environment.render(self._template, {**self._variables, "messages": messages})
        # the template is the model's program: what it cannot render is the fault of this row's messages
        except Exception as error:  # noqa: BLE001
            raise RowError(reason=f"the chat template failed: {str(error)[:200] or type(error).__name__}") from None


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _require_plain(checkpoint: Checkpoint, prompt: PromptSpec) -> None:
    wanted = {"prompt.chat": prompt.chat is True, "prompt.messages": prompt.messages, "prompt.system": prompt.system}
    option = next((name for name, value in wanted.items() if value), None)
    if option:
        reason = "the model has no chat template; use an instruction-tuned model, or only prompt.template"
        raise UnsupportedOptionError(option=f"{option} with model {checkpoint.id}", reason=reason)


def user_message(text: str, system: str | None) -> list[Message]:
    """The messages of a rendered prompt template."""
    return with_system([{"role": "user", "content": text}], system)


def with_system(messages: list[Message], system: str | None) -> list[Message]:
    """Put the spec's system prompt first, unless the row brings its own."""
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def read_messages(column: str, value: Any) -> list[Message]:
    """The messages in one cell: a list of structs with role and content, or the same as JSON text. Raises RowError."""
    if value is None:
        raise RowError(reason=f"{column} is null")
    if isinstance(value, str):
        value = _parse_json(column, value)
    if not isinstance(value, list) or not value:
        raise RowError(reason=f"{column} is not a list with at least one message")
    return [_read_message(column, number, message) for number, message in enumerate(value)]


def _parse_json(column: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(reason=f"{column} is not valid JSON: {str(error)[:100]}") from None


def _read_message(column: str, number: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise RowError(reason=f"{column}: message {number} is not an object")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise RowError(reason=f"{column}: message {number} has no text as its {key}")
    return {key: value for key, value in message.items() if value is not None}
