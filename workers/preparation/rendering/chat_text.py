"""A model's chat template as the rendering process holds it: messages to the model's own prompt format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.conversation import Content, Message, Tool, text_part, user_turn
from parquetry.workers.preparation.rendering.failures import RefusedTemplate
from parquetry.workers.preparation.rendering.sandbox import BoundedEnvironment

_MARK = "a mark of ours"


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training; here it only stands for what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatText:
    """A parsed chat template. Raises RefusedTemplate for one that cannot be parsed."""

    def __init__(
        self, *, source: str, special_tokens: Mapping[str, str], now: str, variables: Mapping[str, Any], is_vision: bool
    ) -> None:
        """`now` is in ISO format, and `is_vision` whether the model takes images."""
        self._environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
        )
        given = {"raise_exception": _raise_exception, "strftime_now": datetime.fromisoformat(now).strftime}
        self._environment.globals.update(given)
        self._variables = {"documents": None, "add_generation_prompt": True, **special_tokens, **variables}
        self._source = source
        self._parse()
        #: whether contents are given as lists of content parts; vision models' templates tend to know nothing else
        self.takes_content_parts = False
        self.takes_content_parts = is_vision and self._shows([text_part(_MARK)], _MARK)

    def _parse(self) -> None:
        try:
            tree = self._environment.parse_bounded(self._source)
            #: names of the variables that the template reads
            self.uses = frozenset(meta.find_undeclared_variables(tree)) - frozenset(self._environment.globals)
            self._template = self._environment.bounded_template(tree)
        except jinja2.TemplateError as error:
            raise RefusedTemplate(f"the model's chat template has an error: {error}") from None

    def render(self, messages: list[Message], tools: list[Tool] | None = None) -> str:
        """The prompt, ending where the assistant's answer begins. Raises RowError."""
        if any(message.get("tool_calls") for message in messages) and "tool_calls" not in self._source:
            raise RowError(reason="its messages hold tool_calls, and the model's chat template has no place for them")
        return self._render([self._shaped(message) for message in messages], tools)

    def _shaped(self, message: Message) -> Message:
        shape = _as_content_parts if self.takes_content_parts else _as_text
        calls = message.get("tool_calls")
        shaped = {**message, "content": shape(message["content"])}
        return {**shaped, "tool_calls": [self._with_arguments(call) for call in calls]} if calls else shaped

    def _with_arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call with its arguments as an object, or as JSON text where the template joins them to a string.

        OpenAI's format has them as text, which most templates would write as a string within JSON.
        """
        convert = _as_json if self._writes_arguments_as_text else _as_object
        function = call.get("function")
        if isinstance(function, dict) and "arguments" in function:
            return {**call, "function": {**function, "arguments": convert(function["arguments"])}}
        return {**call, "arguments": convert(call["arguments"])} if "arguments" in call else call

    @cached_property
    def _writes_arguments_as_text(self) -> bool:
        return not self._takes_arguments({"a": 1}) and self._takes_arguments('{"a": 1}')

    def _takes_arguments(self, arguments: object) -> bool:
        # some templates refuse ids of other lengths
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "assistant", "content": [] if self.takes_content_parts else None, "tool_calls": [call]}
        try:
            self._render([*user_turn(_as_content_parts("x") if self.takes_content_parts else "x"), answer])
        except RowError:
            return False
        return True

    @property
    def shows_images(self) -> bool:
        """Whether an image's content part leaves a trace in the prompt."""
        text = text_part(_MARK)
        try:
            return self.takes_content_parts and self._render(user_turn([text])) != self._render(
                user_turn([{"type": "image"}, text])
            )
        except RowError:
            return False

    def _shows(self, content: Content, text: str) -> bool:
        """Whether a user's message of this content comes out with `text` in it, and not as a list in Python's way."""
        try:
            prompt = self._render(user_turn(content))
        except RowError:
            return False
        return text in prompt and "'type'" not in prompt

    def _render(self, messages: list[Message], tools: list[Tool] | None = None) -> str:
        variables = {**self._variables, "messages": messages, "tools": tools}
        try:
            return self._environment.render(self._template, variables)
        except MemoryError:
            raise
        # the template is the model's program: what it cannot render is the fault of this row's messages
        except Exception as error:  # noqa: BLE001
            raise RowError(reason=f"the chat template failed: {str(error)[:200] or type(error).__name__}") from None


def _as_content_parts(content: Content | None) -> list[dict[str, Any]]:
    return [text_part(content)] if isinstance(content, str) else content or []


def _as_text(content: Content | None) -> str | None:
    return content if content is None or isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _as_object(arguments: Any) -> Any:
    """The object that JSON text holds; what is no such text stays as it is."""
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return found if isinstance(found, dict) else arguments


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
