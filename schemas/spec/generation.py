"""What task generate is asked for: how a row becomes a prompt, and how its output is chosen."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from parquetry.schemas.spec.json_columns import NoObjectError, json_fields
from parquetry.schemas.spec.section import Positive, Section

#: what every job of task generate writes beside the input's columns
OWN_COLUMNS = ("row", "output", "finish_reason", "prompt_tokens", "output_tokens", "logprobs", "error")
#: what it writes besides where outputs are split
SPLIT_COLUMNS = ("answer", "reasoning", "tool_calls")
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class PromptSpec(Section):
    """How a row becomes a prompt: a Jinja template, or a column of chat messages."""

    short_for = "template"

    template: str | None = None
    system: str | None = None
    messages: str | None = None
    #: a column of images: paths, URLs, bytes, struct<bytes, path>, or lists of these; or the column of messages itself
    image: str | None = None
    #: auto uses the model's chat template when it has one
    chat: Literal["auto"] | bool = "auto"
    #: what happens to a prompt longer than the model's context window allows
    truncate: Literal["error", "left", "right"] = "error"
    #: variables of the model's chat template, such as enable_thinking
    chat_template_kwargs: dict[str, Any] = Field(default={})
    #: schemas of the tools the model may call, or the column that holds each row's; null in a cell is a row without any
    tools: list[dict[str, Any]] | str | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def _no_variable_with_a_key_of_its_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = next((name for name in ("messages", "tools") if name in value), None)
        if taken is not None:
            raise ValueError(f"{taken} has a key of its own, prompt.{taken}")
        return value

    @field_validator("tools", mode="before")
    @classmethod
    def _some_tools(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, list | str):
            raise ValueError("it is neither a list of tool schemas nor the name of a column")
        if value is not None and not value:
            raise ValueError("it names no tool; list at least one schema, name a column, or leave it out")
        if isinstance(value, list) and not all(isinstance(tool, dict) and tool for tool in value):
            raise ValueError("every tool is a mapping, such as {type: function, function: {name: ...}}")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> PromptSpec:
        if self.template is not None and self.messages is not None:
            raise ValueError("give template or messages, not both")
        written = next((name for name in ("messages", "chat_template_kwargs", "tools") if getattr(self, name)), None)
        if written is not None and self.chat is False:
            raise ValueError(f"{written} needs the chat template; remove chat: false")
        if self.image is not None and self.truncate != "error":
            raise ValueError("the tokens of an image cannot be cut, so with image truncate must be error")
        return self


class GenerationSpec(Section):
    """How tokens are chosen and when a row ends."""

    max_new_tokens: Positive = 256
    temperature: float = Field(default=0.0, ge=0.0, le=100.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    n: int = Field(default=1, ge=1, le=1024)
    stop: list[str] = Field(default=[])
    #: ids of tokens that end a row besides the model's own; like a stop string, no part of the output
    stop_token_ids: list[TokenId] = Field(default=[])
    #: only with a temperature: tokens less likely than this share of the likeliest one's probability are out
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    #: divides the logits of tokens in prompt or output (multiplies negative ones), as transformers does
    repetition_penalty: float = Field(default=1.0, gt=0.0, le=100.0)
    #: taken off the logit of each token in the output, once, and as often as the token stands there
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    #: false keeps the text of special tokens, such as channel markers, in the output
    skip_special_tokens: bool = True
    #: auto splits each output into the columns answer, reasoning and tool_calls; null is off, and auto for
    #: chat completions of openai-batch
    reasoning: Literal["auto", "off"] | None = None
    logprobs: bool = False
    json_schema: dict[str, Any] | None = None
    #: a column for each property of json_schema's object, beside the output
    json_columns: bool = False
    regex: str | None = None
    #: the output is one of these, word for word
    choices: list[str] | None = None

    @field_validator("choices")
    @classmethod
    def _distinct_choices(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        if not value:
            raise ValueError("it lists no choice; name at least one, or leave it out")
        if "" in value:
            raise ValueError("a choice must not be empty")
        twice = next((text for text, times in Counter(value).items() if times > 1), None)
        if twice is not None:
            raise ValueError(f"it lists {twice!r} more than once")
        return value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: list[str]) -> list[str]:
        if any(not text for text in value):
            raise ValueError("a stop string must not be empty")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> GenerationSpec:
        given = [name for name in ("json_schema", "regex", "choices") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not both")
        if self.json_columns and self.json_schema is None:
            raise ValueError("json_columns makes columns of json_schema, which is not set")
        if self.json_columns:
            self._check_columns()
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError(f"n is {self.n} but temperature is 0, so all samples would be equal; set temperature")
        return self

    def _check_columns(self) -> None:
        try:
            names = [field.name for field in json_fields(self.json_schema or {})]
        except NoObjectError as error:
            raise ValueError(f"json_columns is true, but json_schema has no columns: {error}") from None
        own = OWN_COLUMNS + (SPLIT_COLUMNS if self.reasoning == "auto" else ())
        taken = next((name for name in names if name in own), None)
        if taken is not None:
            raise ValueError(
                f"json_columns is true, and the property {taken!r} is called like a column of every output"
            )
