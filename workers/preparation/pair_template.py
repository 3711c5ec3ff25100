"""Pairs of texts as a reranker's chat template writes them: a message of the role query, one of the role document."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from parquetry.schemas.errors import RowError, UnsupportedOptionError
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.score_modules import default_prompt, renders_pairs, template_variables
from parquetry.workers.preparation.cells import or_error
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.conversation import Message

_ROLES = ("query", "document")


class PairTemplate:
    """The chat template of a sentence-transformers CrossEncoder, with its own instruction as the system message."""

    def __init__(self, chat: ChatTemplate, prompt: str) -> None:
        self._chat, self._prompt = chat, prompt

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, now: datetime) -> PairTemplate | None:
        """None where pairs are tokenized as they are.

        Raises UnsupportedOptionError for a template that leaves a text out.
        """
        source = checkpoint.chat_template_for(has_tools=False) if renders_pairs(checkpoint) else None
        if source is None:
            return None
        chat = ChatTemplate(source, checkpoint.special_tokens, now, template_variables(checkpoint))
        found = cls(chat, default_prompt(checkpoint))
        reason = found._reason()
        if reason is not None:
            raise UnsupportedOptionError(option="task score with this model", reason=reason)
        return found

    def _reason(self) -> str | None:
        try:
            texts = [self.text(pair) for pair in (("a b", "c d"), ("e f", "c d"), ("a b", "g h"))]
        except RowError as error:
            return f"its chat template takes no query and document: {error}"
        left_out = [role for role, text in zip(_ROLES, texts[1:], strict=True) if text == texts[0]]
        return f"its chat template leaves the {left_out[0]} out" if left_out else None

    def text(self, pair: tuple[str, str]) -> str:
        """What the model reads of the pair. Raises RowError."""
        system: list[Message] = [{"role": "system", "content": self._prompt}] if self._prompt else []
        of_pair = [{"role": role, "content": text} for role, text in zip(_ROLES, pair, strict=True)]
        return self._chat.render([*system, *of_pair])

    def texts(self, pairs: Sequence[tuple[str, str] | RowError]) -> list[str | RowError]:
        """Of every pair, errors as they are."""
        return [pair if isinstance(pair, RowError) else or_error(self.text, pair) for pair in pairs]
