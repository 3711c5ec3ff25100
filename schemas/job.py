"""The job spec: what a user asks for. Frozen, and refused whole when a key is unknown or a value is off."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from parquetry.schemas.errors import InvalidValueError, UnknownKeyError, suggestion

Task = Literal["generate", "classify", "embed", "score"]
Backend = Literal["auto", "packed", "transformers", "onnxruntime", "optimum"]
Quantization = Literal["none", "int8", "nf4", "fp4", "fp8", "int8-weight-only"]
Attention = Literal[
    "auto", "eager", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-math", "sdpa-cudnn",
    "flash_attention_2", "flash_attention_3", "triton",
]  # fmt: skip
#: webhooks one job may have
MAX_WEBHOOKS = 10
_WEB_ADDRESS = re.compile(r"https?://[^\s/?#@]+(:\d+)?([/?#]\S*)?")
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A frozen part of the spec that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class InputSpec(Section):
    """Which rows: a file, folder, glob or list of them; local or s3://, gs://, az://; .parquet, .jsonl or .csv."""

    path: str | list[str]
    #: the columns read, null for all
    columns: list[str] | None = None
    #: the first `limit` rows only
    limit: Positive | None = None


class OutputSpec(Section):
    """Where the parts go, and which input columns they carry (null: all that were read)."""

    path: str
    keep: list[str] | None = None


class ModelSpec(Section):
    """Which weights, and how they are loaded."""

    id: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Quantization = "none"
    #: int8 alone: activations above it stay in half precision, 0 quantizes them all; null is 6.0 where rows are padded
    #: and 0 where they are packed
    int8_threshold: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    attention: Attention = "auto"
    backend: Backend = "auto"
    device_map: Literal["auto"] | None = "auto"
    #: bytes per device such as {"0": "40GiB", "cpu": "64GiB"}
    max_memory: dict[str, str] | None = None
    #: a LoRA folder that is merged into the weights
    adapter: str | None = None
    #: LoRA folders by name that stay beside the weights; each row names its own in `adapter_column`
    adapters: dict[str, str] | None = None
    #: input column with a name of `adapters`, null or empty for the model as it is
    adapter_column: str | None = None
    compile: bool = True

    @model_validator(mode="after")
    def _threshold_of_int8(self) -> ModelSpec:
        if self.int8_threshold is not None and self.quantization != "int8":
            raise ValueError(f"int8_threshold is of quantization int8, and quantization is {self.quantization}")
        return self

    @model_validator(mode="after")
    def _one_kind_of_adapter(self) -> ModelSpec:
        if self.adapter is not None and self.adapters is not None:
            raise ValueError("give adapter or adapters, not both")
        if self.adapters is not None and not self.adapters:
            raise ValueError("adapters is empty; name at least one, or leave it out")
        if "" in (self.adapters or {}):
            raise ValueError("an adapter needs a name; an empty cell stands for the model as it is")
        return self


class PromptSpec(Section):
    """How a row becomes a prompt: a Jinja template, or a column of chat messages."""

    template: str | None = None
    system: str | None = None
    messages: str | None = None
    #: a column of images: paths, URLs, bytes, struct<bytes, path>, or lists of these; or the column of messages itself
    image: str | None = None
    #: auto uses the model's chat template when it has one
    chat: Literal["auto"] | bool = "auto"
    #: what happens to a prompt longer than the model's window allows
    truncate: Literal["error", "left", "right"] = "error"

    @model_validator(mode="after")
    def _one_source(self) -> PromptSpec:
        if self.template is not None and self.messages is not None:
            raise ValueError("give template or messages, not both")
        if self.messages is not None and self.chat is False:
            raise ValueError("messages needs the chat template; remove chat: false")
        if self.image is not None and self.truncate != "error":
            raise ValueError("the tokens of an image cannot be cut, so with image truncate must be error")
        return self


class GenerationSpec(Section):
    """How tokens are chosen and when a row ends."""

    max_new_tokens: Positive = 256
    temperature: float = Field(0.0, ge=0.0, le=100.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)
    n: int = Field(1, ge=1, le=1024)
    stop: list[str] = []
    logprobs: bool = False
    json_schema: dict[str, Any] | None = None
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
        if self.n > 1 and self.temperature == 0.0:
            raise ValueError(f"n is {self.n} but temperature is 0, so all samples would be equal; set temperature")
        return self


class ClassifySpec(Section):
    """Which text is classified; also read by `task: score`, which needs text_pair."""

    text: str = "text"
    text_pair: str | None = None
    labels: list[str] | None = None
    top_k: Positive = 1
    all_scores: bool = False
    truncate: Literal["error", "right"] = "right"


class EmbedSpec(Section):
    """Which text is embedded, and how its tokens are pooled."""

    text: str = "text"
    pooling: Literal["auto", "cls", "mean", "last", "max", "mean_sqrt_len", "weighted_mean"] = "auto"
    normalize: bool = True
    #: name of one of the model's prompts, put before every text; null takes the model's default, "" none
    prompt: str | None = None
    #: the first numbers of each vector that are kept, null for all (or what the model says)
    dimensions: Positive | None = None
    dtype: Literal["float16", "float32"] = "float16"
    truncate: Literal["error", "right"] = "right"


class ShardsSpec(Section):
    """How many rows a shard holds; auto aims at one to three minutes of engine time."""

    rows: Positive | Literal["auto"] = "auto"


class JobSpec(Section):
    """One job, as a user writes it in YAML, JSON or a dict."""

    task: Task
    input: InputSpec
    output: OutputSpec
    model: ModelSpec
    prompt: PromptSpec = PromptSpec()
    generation: GenerationSpec = GenerationSpec()
    classify: ClassifySpec = ClassifySpec()
    embed: EmbedSpec = EmbedSpec()
    shards: ShardsSpec = ShardsSpec()
    priority: int = Field(5, ge=0, le=9)
    on_row_error: Literal["keep", "fail"] = "keep"
    #: webhooks that are told when the job has ended
    notify: list[str] = []

    @field_validator("notify")
    @classmethod
    def _web_addresses(cls, value: list[str]) -> list[str]:
        if len(value) > MAX_WEBHOOKS:
            raise ValueError(f"a job may have {MAX_WEBHOOKS} webhooks")
        for url in value:
            if not _WEB_ADDRESS.fullmatch(url):
                raise ValueError(f"{url!r} is no address of a webhook; it starts with https:// or http://")
        return value

    @model_validator(mode="after")
    def _task_sections(self) -> JobSpec:
        if self.task == "generate" and self.prompt.template is None and self.prompt.messages is None:
            raise ValueError("task generate needs prompt.template or prompt.messages")
        if self.task == "score" and self.classify.text_pair is None:
            raise ValueError("task score needs classify.text_pair, the column of second texts")
        if (self.model.adapters is None) != (self.model.adapter_column is None):
            raise ValueError("model.adapters and model.adapter_column go together: folders by name, and who uses which")
        if self.model.adapters is not None and self.task != "generate":
            raise ValueError(f"task {self.task} takes one adapter for all rows; name it in model.adapter")
        return self

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> JobSpec:
        """Validate plain data. Raises UnknownKeyError or InvalidValueError, naming the first key that is off."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _first_problem(error) from None

    @property
    def fingerprint(self) -> str:
        """Hex digest of what determines the output; priority and notify are left out."""
        data = self.model_dump(mode="json", exclude={"priority", "notify"})
        text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def needed_columns(self) -> dict[str, str]:
        """Columns the spec names outright, each with the key that names it (template variables are not here)."""
        named: dict[str, str] = {}
        if self.task == "generate" and self.prompt.messages:
            named[self.prompt.messages] = "prompt.messages"
        if self.task == "generate" and self.prompt.image:
            named.setdefault(self.prompt.image, "prompt.image")
        if self.task in ("classify", "score"):
            named[self.classify.text] = "classify.text"
            if self.classify.text_pair:
                named[self.classify.text_pair] = "classify.text_pair"
        if self.task == "embed":
            named[self.embed.text] = "embed.text"
        if self.model.adapter_column is not None:
            named[self.model.adapter_column] = "model.adapter_column"
        return named


def _first_problem(error: ValidationError) -> UnknownKeyError | InvalidValueError:
    problems = error.errors(include_url=False)
    unknown = next((p for p in problems if p["type"] == "extra_forbidden"), None)
    if unknown is not None:
        return _unknown_key(unknown["loc"])
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"] if part not in _UNION_TAGS) or "top level"
    missing = problem["type"] == "missing"
    value = "missing" if missing else _shorten(problem["input"])
    reason = "it is required" if missing else problem["msg"].removeprefix("Value error, ")
    return InvalidValueError(key=key, value=value, reason=reason[:1].lower() + reason[1:])


_UNION_TAGS = {"str", "list[str]", "bool", "int", "literal['auto']", "constrained-int"}


def _unknown_key(location: tuple[int | str, ...]) -> UnknownKeyError:
    section: type[BaseModel] = JobSpec
    for part in location[:-1]:
        section = section.model_fields[str(part)].annotation  # type: ignore[assignment]
    name = str(location[-1])
    return UnknownKeyError(key=repr(".".join(map(str, location))), suggestion=suggestion(name, section.model_fields))


def _shorten(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "empty"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
