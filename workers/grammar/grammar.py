"""One grammar as text: what travels in a request and keys the cache of compiled ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from parquetry.schemas.errors import GrammarError
from parquetry.schemas.spec.generation import GenerationSpec
from parquetry.workers.packages import require

#: no free white space between the parts of a document: a model that may write spaces may write nothing else
_JSON_OPTIONS = {"whitespace_flexible": False}
_KEYS = {"json_schema": "generation.json_schema", "regex": "generation.regex", "choices": "generation.choices"}


@dataclass(frozen=True)
class Grammar:
    """A kind (json_schema, regex or choices) and its source."""

    kind: str
    source: Any

    @classmethod
    def of(cls, generation: GenerationSpec) -> Grammar | None:
        """The grammar a job asks for, None when it leaves its outputs free."""
        if generation.json_schema is not None:
            return cls("json_schema", generation.json_schema)
        if generation.choices is not None:
            return cls("choices", generation.choices)
        return None if generation.regex is None else cls("regex", generation.regex)

    @classmethod
    def parse(cls, text: str) -> Grammar:
        """The inverse of `text`."""
        ((kind, source),) = json.loads(text).items()
        return cls(kind, source)

    @property
    def text(self) -> str:
        """Canonical JSON, equal for equal grammars."""
        return json.dumps({self.kind: self.source}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @property
    def llguidance(self) -> str:
        """As the library takes it. The library must be installed."""
        from llguidance import LLMatcher

        if self.kind == "json_schema":
            return LLMatcher.grammar_from_json_schema(self.source, overrides=_JSON_OPTIONS)
        if self.kind == "choices":
            return LLMatcher.grammar_from_lark("start: " + " | ".join(json.dumps(choice) for choice in self.source))
        return LLMatcher.grammar_from_regex(self.source)

    def check(self) -> None:
        """Raise GrammarError with the library's reason unless it compiles, MissingPackageError without the library."""
        require("llguidance", feature=_KEYS[self.kind])
        from llguidance import LLMatcher

        if self.kind == "choices" and not self.source:
            raise self.error("it is empty")
        is_error, messages = LLMatcher.validate_grammar_with_warnings(self.llguidance)
        if is_error:
            raise self.error(messages[0])

    def error(self, reason: str) -> GrammarError:
        """The error that says why this grammar cannot be used."""
        return GrammarError(kind=_KEYS[self.kind], reason=_one_line(reason))


def _one_line(message: str) -> str:
    """What matters of the library's message: a regex error marks the place over several lines, its reason last."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    return (reason or lines[0])[:300].rstrip(".")
