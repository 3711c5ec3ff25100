"""The prompt of one row: its prompt template or its messages, and the model's chat template around them."""

from __future__ import annotations

from typing import Any

from parquetry.schemas.errors import RowError
from parquetry.workers.preparation.conversation import (
    Message,
    Tool,
    read_messages,
    read_tools,
    user_message,
    with_system,
)
from parquetry.workers.preparation.rendering.chat_text import ChatText
from parquetry.workers.preparation.rendering.prompt_text import PromptText


class Dialogue:
    """Prompts of a job, by the definition that `DialogueTexts` makes."""

    def __init__(
        self,
        *,
        template: str | None,
        chat: dict[str, Any] | None,
        messages: str | None,
        tools: list[Tool] | str | None,
        system: str | None,
    ) -> None:
        """`messages` is a column; so are `tools` that are text."""
        self._template = None if template is None else PromptText(template)
        self._chat = None if chat is None else ChatText(**chat)
        self._messages, self._tools, self._system = messages, tools, system

    def render(self, row: dict[str, Any], num_images: int | None, images: list[Any]) -> str:
        """The prompt of the row. Raises RowError, TemplateFault.

        `num_images` are those beside it, None where a job reads none; what its messages name is added to `images`.
        """
        if self._template is None:
            column = str(self._messages)
            found = read_messages(column, row[column], None if num_images is None else images)
            return self._in_chat(row, with_system(found, self._system))
        text = self._template.render(row)
        if self._chat is None:
            return text
        return self._in_chat(row, user_message(text, self._system, num_images=num_images or 0))

    def _in_chat(self, row: dict[str, Any], messages: list[Message]) -> str:
        if self._chat is None:
            raise RowError(reason="the model has no chat template for its messages")
        tools = self._tools
        return self._chat.render(messages, read_tools(tools, row[tools]) if isinstance(tools, str) else tools)
