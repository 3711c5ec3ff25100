"""Chat requests as prompts: the model's own chat template around what each line says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from parquetry.schemas.errors import InvalidValueError, RowError, UnsupportedOptionError
from parquetry.schemas.spec.generation import PromptSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.rendering.answers import Rendered
from parquetry.workers.preparation.rendering.renderer import definition_of, renderer
from parquetry.workers.preparation.requests.conversations import Conversation, without_place
from parquetry.workers.preparation.template import row_error

_MESSAGES, _TOOLS, _EFFORT = "messages", "tools", "reasoning_effort"
#: whether there are tools, and how hard to think: what a chat template is opened with
Variant = tuple[bool, str | None]


class Chats:
    """The chat template in every variant that lines ask for, each opened once."""

    def __init__(self, checkpoint: Checkpoint, prompt: PromptSpec, now: datetime) -> None:
        """Raises UnsupportedOptionError for a model without a chat template, and what ChatTemplate.of raises."""
        self._checkpoint, self._prompt, self._now = checkpoint, prompt, now
        self._definitions: dict[Variant, bytes | RowError] = {}
        self._definitions[False, None] = self._opened((False, None))

    def render(self, conversations: Sequence[Conversation | RowError]) -> list[Rendered | RowError]:
        """The prompt of each conversation, or what is wrong with it."""
        found: list[Rendered | RowError] = [
            chat if isinstance(chat, RowError) else without_place(_MESSAGES) for chat in conversations
        ]
        for variant, places in _by_variant(conversations).items():
            definition = self._definition(variant)
            rows = [_row(chat) for at in places if isinstance(chat := conversations[at], Conversation)]
            answers = [definition] * len(rows) if isinstance(definition, RowError) else self._rendered(definition, rows)
            for at, answer in zip(places, answers, strict=True):
                found[at] = answer
        return found

    def _rendered(self, definition: bytes, rows: list[dict[str, Any]]) -> list[Rendered | RowError]:
        texts = renderer.render(definition, [(row, None) for row in rows])
        return [text if isinstance(text, Rendered) else row_error(text) for text in texts]

    def _definition(self, variant: Variant) -> bytes | RowError:
        if variant not in self._definitions:
            try:
                self._definitions[variant] = self._opened(variant)
            except UnsupportedOptionError:
                self._definitions[variant] = without_place(_TOOLS)
            except InvalidValueError:
                self._definitions[variant] = without_place(_EFFORT)
        return self._definitions[variant]

    def _opened(self, variant: Variant) -> bytes:
        has_tools, effort = variant
        variables = {**self._prompt.chat_template_kwargs, **({_EFFORT: effort} if effort else {})}
        asked = {"messages": _MESSAGES, "tools": _TOOLS if has_tools else None, "chat_template_kwargs": variables}
        chat = ChatTemplate.of(self._checkpoint, self._prompt.model_copy(update=asked), now=self._now)
        assert chat is not None, "messages need a template, and a model without one is refused"
        system, tools = self._prompt.system, asked["tools"]
        parts = {"template": None, "chat": chat.parts, "messages": _MESSAGES, "tools": tools, "system": system}
        return definition_of("dialogue", **parts)


def _by_variant(conversations: Sequence[Conversation | RowError]) -> dict[Variant, list[int]]:
    places: dict[Variant, list[int]] = {}
    for at, chat in enumerate(conversations):
        if isinstance(chat, Conversation):
            places.setdefault((chat.tools is not None, chat.effort), []).append(at)
    return places


def _row(chat: Conversation) -> dict[str, Any]:
    # as text: what JSON nulls out is nulls, and not the empty fields of an Arrow struct
    return {_MESSAGES: json.dumps(chat.messages), _TOOLS: json.dumps(chat.tools)}
