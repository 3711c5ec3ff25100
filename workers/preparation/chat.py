"""Chat templates: a model's own Jinja text that turns messages into its prompt format, rendered as prompts are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from parquetry.schemas.errors import InvalidValueError, UnsupportedOptionError, suggestion
from parquetry.schemas.spec.generation import PromptSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.preparation.conversation import Message, Tool
from parquetry.workers.preparation.rendering.renderer import definition_of, renderer
from parquetry.workers.preparation.template import rendered

#: what templates are given beside the variables that a job may set
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class ChatTemplate:
    """A model's chat template."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        now: datetime,
        variables: Mapping[str, Any] | None = None,
        *,
        is_vision: bool = False,
    ) -> None:
        """`variables` are those of prompt.chat_template_kwargs. Raises TemplateError for one that cannot be parsed."""
        self._special_tokens = dict(special_tokens)
        #: the template and what it is given, as the rendering process takes it
        self.parts = {
            "source": source,
            "special_tokens": self._special_tokens,
            "now": now.isoformat(),
            "variables": dict(variables or {}),
            "is_vision": is_vision,
        }
        self._definition = definition_of("chat", **self.parts)
        self._facts = renderer.facts(self._definition)

    @classmethod
    def of(cls, checkpoint: Checkpoint, prompt: PromptSpec, *, now: datetime) -> ChatTemplate | None:
        """The template to use, None for plain prompts.

        `now` is what templates that print a date get: the time of the job, so that every attempt gives the same text.
        Raises TemplateError for one that cannot be parsed, UnsupportedOptionError when the spec needs a chat template
        and the model has none, or has one without a place for tools, and InvalidValueError for variables that the
        template does not use.
        """
        source = checkpoint.chat_template_for(has_tools=prompt.tools is not None)
        if source is None:
            _require_plain(checkpoint, prompt)
            return None
        if prompt.chat is False:
            return None
        variables, is_vision = prompt.chat_template_kwargs, checkpoint.is_vision
        template = cls(source, checkpoint.special_tokens, now, variables, is_vision=is_vision)
        template._require_used(checkpoint, prompt)
        return template

    @property
    def uses(self) -> frozenset[str]:
        """Names of the variables that the template reads."""
        return frozenset(self._facts["uses"])

    @property
    def takes_content_parts(self) -> bool:
        """Whether contents are given as lists of content parts, as vision models' templates tend to want them."""
        return bool(self._facts["takes_content_parts"])

    @property
    def shows_images(self) -> bool:
        """Whether an image's content part leaves a trace in the prompt."""
        return bool(self._facts["shows_images"])

    def _require_used(self, checkpoint: Checkpoint, prompt: PromptSpec) -> None:
        """A variable that the template never reads would change nothing, and nobody would be told."""
        if prompt.tools is not None and "tools" not in self.uses:
            reason = "its chat template has no place for tools; describe them in prompt.system or prompt.template"
            raise UnsupportedOptionError(option=f"prompt.tools with model {checkpoint.id}", reason=reason)
        unused = next((name for name in prompt.chat_template_kwargs if name not in self.uses), None)
        if unused is not None:
            known = sorted(self.uses - _GIVEN - frozenset(self._special_tokens))
            reason = f"the model's chat template reads no such variable{suggestion(unused, known)}"
            reason += f"; beside the messages it reads {', '.join(known) or 'none'}"
            raise InvalidValueError(key="prompt.chat_template_kwargs", value=repr(unused), reason=reason)

    def render(self, messages: list[Message], tools: list[Tool] | None = None) -> str:
        """The prompt, ending where the assistant's answer begins. Raises RowError."""
        (found,) = renderer.render(self._definition, [(messages, tools)])
        return rendered(found).text


def _require_plain(checkpoint: Checkpoint, prompt: PromptSpec) -> None:
    named = ("messages", "system", "tools", "chat_template_kwargs")
    wanted = {"prompt.chat": prompt.chat is True, **{f"prompt.{name}": getattr(prompt, name) for name in named}}
    option = next((name for name, value in wanted.items() if value), None)
    if option:
        reason = "the model has no chat template; use an instruction-tuned model, or only prompt.template"
        raise UnsupportedOptionError(option=f"{option} with model {checkpoint.id}", reason=reason)
