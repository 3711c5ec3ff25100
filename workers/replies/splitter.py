"""Splits the outputs of one model by the markers that its chat template or its vocabulary knows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.spec.batch_format import COMPLETIONS
from parquetry.schemas.spec.job import JobSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.conversation import user_turn
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.replies import harmony
from parquetry.workers.replies.reply import Reply
from parquetry.workers.replies.thinking import Thinking
from parquetry.workers.replies.tool_formats import FORMATS, ToolFormat


@dataclass(frozen=True)
class Splitter:
    """One model's way of writing."""

    thinking: Thinking
    #: None where the model names no format that is known
    tools: ToolFormat | None
    is_harmony: bool
    #: finds special tokens in a text, None where there are none
    special: re.Pattern[str] | None

    @classmethod
    def of(cls, spec: JobSpec, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Splitter:
        """The splitter of a job's outputs."""
        template = checkpoint.chat_template_for(has_tools=True) or ""
        knows = _knowing(template, tokenizer)
        # a template says more than a vocabulary, which others may have filled
        tools = next((f for f in FORMATS if f.marker in template), None)
        tools = tools or next((f for f in FORMATS if knows(f.marker)), None)
        is_harmony = all(tokenizer.special_id(token) is not None for token in harmony.TOKENS)
        texts = sorted(filter(None, tokenizer.special_tokens), key=len, reverse=True)
        special = re.compile("|".join(map(re.escape, texts))) if texts else None
        return cls(Thinking.of(knows, _prompt_end(spec, checkpoint)), tools, is_harmony, special)

    @property
    def name(self) -> str:
        """What provenance tells."""
        if self.is_harmony:
            return "harmony"
        return " ".join(filter(None, (self.thinking.begin, self.tools.name if self.tools else "")))

    def split(self, text: str, *, has_tools: bool = False) -> Reply:
        """The parts of an output, given with its special tokens; without any in the parts."""
        if self.is_harmony:
            reply = harmony.split(text)
        else:
            reasoning, rest = self.thinking.split(text)
            answer, calls = self.tools.take(rest, has_tools) if self.tools else (rest, [])
            reply = Reply(answer, reasoning, tuple(calls))
        return reply._replace(answer=self._plain(reply.answer), reasoning=self._plain(reply.reasoning or "") or None)

    def _plain(self, text: str) -> str:
        return self.special.sub("", text) if self.special else text


def _knowing(template: str, tokenizer: Tokenizer) -> Callable[[str], bool]:
    return lambda marker: marker in template or tokenizer.id_of(marker) is not None


def _prompt_end(spec: JobSpec, checkpoint: Checkpoint) -> str:
    """How the job's prompts end, before the output: "" where no chat template writes them."""
    if spec.prompt.chat is False or (spec.reads_requests and spec.url == COMPLETIONS):
        return ""
    try:
        prompt = spec.prompt.model_copy(update={"tools": None})
        chat = ChatTemplate.of(checkpoint, prompt, now=datetime.fromtimestamp(0, UTC))
        return "" if chat is None else chat.render(user_turn("x"))
    # a template that wants more than one turn of a user tells nothing by this
    except ParquetryError:
        return ""
