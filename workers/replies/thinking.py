"""Thinking in front of an answer, between two markers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: markers by family; the first is most models', and all that is looked for where a model names none of its own
MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)


@dataclass(frozen=True)
class Thinking:
    """How one model marks its thoughts."""

    begin: str
    end: str
    #: whether the model, in its template or vocabulary, knows these markers
    is_own: bool
    #: whether its prompts end with the first marker, so that outputs begin within a thought
    is_begun: bool = False

    @classmethod
    def of(cls, knows: Callable[[str], bool], prompt_end: str) -> Thinking:
        """`knows` tells whether the model knows a marker; `prompt_end` is the end of its chat prompts."""
        own = next((pair for pair in MARKERS if knows(pair[1])), None)
        begin, end = own or MARKERS[0]
        return cls(begin, end, own is not None, prompt_end.rstrip().endswith(begin))

    def split(self, text: str) -> tuple[str | None, str]:
        """The thought, None without one, and what follows. A thought that was cut short is all of the text."""
        begun = text.lstrip().removeprefix(self.begin)
        is_begun = self.is_begun or begun != text.lstrip()
        thought, marker, rest = begun.partition(self.end)
        # a prompt may have begun the thought unseen
        if not is_begun and not (marker and self.is_own):
            return None, text
        return thought.strip() or None, rest.lstrip()
