"""The job spec: what a user asks for. Frozen, and refused whole when a key is unknown or a value is off."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from parquetry.schemas.spec.batch_format import BODY, CHAT, COLUMNS, CUSTOM_ID, DEFAULT_URL, URL, URLS, Url
from parquetry.schemas.spec.budget import BudgetSpec
from parquetry.schemas.spec.generation import GenerationSpec, PromptSpec
from parquetry.schemas.spec.section import Positive, Section, first_problem

Task = Literal["generate", "classify", "embed", "score"]
Backend = Literal["auto", "packed", "transformers", "onnxruntime", "optimum", "vllm"]
Quantization = Literal["none", "int8", "nf4", "fp4", "fp8", "int8-weight-only"]
Attention = Literal[
    "auto", "eager", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-math", "sdpa-cudnn",
    "flash_attention_2", "flash_attention_3", "triton",
]  # fmt: skip
#: webhooks one job may have
MAX_WEBHOOKS = 10
#: keys that shape how a model writes, by section; a task that writes nothing refuses them
OF_GENERATE = {
    "model": ("kv_dtype",),
    "prompt": ("chat_template_kwargs", "tools"),
    "generation": (
        "stop_token_ids", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "skip_special_tokens",
        "reasoning",
    ),
}  # fmt: skip
#: keys that say how a job is submitted and told of; its rows do not depend on them
FREE_KEYS = ("name", "priority", "budget", "notify", "output.on_existing")
#: keys of the prompt section that take it from columns
_OF_ROWS = ("template", "messages", "tools", "image")
_WITH_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*@")
_WEB_ADDRESS = re.compile(r"https?://[^\s/?#@]+(:\d+)?([/?#]\S*)?")


class InputSpec(Section):
    """Which rows: a file, folder, glob or list of them; local or s3://, gs://, az://; Parquet, JSON Lines or CSV."""

    short_for = "path"
    short_kinds = (str, list)

    path: str | list[str]
    #: the columns read, null for all
    columns: list[str] | None = None
    #: the first `limit` rows only
    limit: Positive | None = None
    #: auto makes numbers of CSV columns that hold nothing but plainly written ones; text leaves every cell as written
    types: Literal["auto", "text"] = "auto"
    #: auto takes it from each file's name or content; openai-batch is OpenAI's JSON Lines, a request a line
    format: Literal["auto", "openai-batch"] = "auto"
    #: openai-batch alone: what every line asks for; null is /v1/chat/completions, or /v1/embeddings of task embed
    url: Url | None = None
    #: openai-batch alone: names of the model that lines may ask for; null is model.id and the last part of it
    models: list[str] | None = None

    @model_validator(mode="after")
    def _keys_of_requests(self) -> InputSpec:
        given = next((name for name in ("url", "models") if getattr(self, name) is not None), None)
        if given is not None and self.format != "openai-batch":
            raise ValueError(f"{given} is of format openai-batch, and format is {self.format}")
        if self.models is not None and not self.models:
            raise ValueError("models is empty, so that no line could be answered; name one, or leave it out")
        if self.format == "openai-batch" and not set(self.columns or COLUMNS) <= set(COLUMNS):
            raise ValueError(f"of format openai-batch the columns are {', '.join(COLUMNS)}")
        return self


class OutputSpec(Section):
    """Where the parts go, and which input columns they carry (null: all that were read)."""

    short_for = "path"

    path: str
    keep: list[str] | None = None
    #: what to do where another job's output lies there: refuse; overwrite removes it; extend keeps its rows and
    #: computes those that a larger limit or new input files add
    on_existing: Literal["refuse", "overwrite", "extend"] = "refuse"
    #: openai-batch writes OpenAI's output and error files beside the parts; for an input of that format
    format: Literal["parquet", "openai-batch"] = "parquet"


class ModelSpec(Section):
    """Which weights, and how they are loaded."""

    short_for = "id"

    id: str
    revision: str | None = None
    #: back ends onnxruntime and optimum: the ONNX file within the folder, such as onnx/model_quantized.onnx; null is
    #: model.onnx, or the only one there is
    file: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Quantization = "none"
    #: int8 alone: activations above it stay in half precision, 0 quantizes them all; null is 6.0 where rows are padded
    #: and 0 where they are packed
    int8_threshold: float | None = Field(default=None, ge=0.0, allow_inf_nan=False)
    attention: Attention = "auto"
    #: what the KV cache keeps: auto what the model computes with, fp8 half as many bytes, for generation in packed rows
    kv_dtype: Literal["auto", "fp8"] = "auto"
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
    def _file_of_onnx(self) -> ModelSpec:
        if self.file is not None and self.backend not in ("onnxruntime", "optimum"):
            raise ValueError(f"file names an ONNX file, and backend is {self.backend}; set it to onnxruntime")
        return self

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
    #: shown beside the id, and taken in its place
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    input: InputSpec
    output: OutputSpec
    model: ModelSpec
    prompt: PromptSpec = PromptSpec()
    generation: GenerationSpec = GenerationSpec()
    classify: ClassifySpec = ClassifySpec()
    embed: EmbedSpec = EmbedSpec()
    shards: ShardsSpec = ShardsSpec()
    priority: int = Field(default=5, ge=0, le=9)
    #: what it may cost; may be raised later
    budget: BudgetSpec | None = None
    on_row_error: Literal["keep", "fail"] = "keep"
    #: webhooks that are told when the job has ended
    notify: list[str] = Field(default=[])

    @field_validator("notify")
    @classmethod
    def _web_addresses(cls, value: list[str]) -> list[str]:
        if len(value) > MAX_WEBHOOKS:
            raise ValueError(f"a job may have {MAX_WEBHOOKS} webhooks")
        for url in value:
            if not _WEB_ADDRESS.fullmatch(url):
                # what was written stays out of the sentence: a part of it may be a token
                raise ValueError("one is no address of a webhook; it starts with https:// and has no user or password")
        return value

    @model_validator(mode="after")
    def _no_password_in_a_location(self) -> JobSpec:
        paths = [self.input.path] if isinstance(self.input.path, str) else self.input.path
        if any(_WITH_USER.match(text) for text in (*paths, self.output.path, self.model.id)):
            raise ValueError("a location has a user or password in it; credentials come from the environment")
        return self

    @model_validator(mode="after")
    def _task_sections(self) -> JobSpec:
        is_asked = self.reads_requests or self.prompt.template is not None or self.prompt.messages is not None
        if self.task == "generate" and not is_asked:
            raise ValueError("task generate needs prompt.template or prompt.messages")
        if self.task == "score" and self.classify.text_pair is None:
            raise ValueError("task score needs classify.text_pair, the column of second texts")
        if (self.model.adapters is None) != (self.model.adapter_column is None):
            raise ValueError("model.adapters and model.adapter_column go together: folders by name, and who uses which")
        if self.model.adapters is not None and self.task != "generate":
            raise ValueError(f"task {self.task} takes one adapter for all rows; name it in model.adapter")
        return self

    @model_validator(mode="after")
    def _nothing_of_another_task(self) -> JobSpec:
        if self.task == "generate":
            return self
        given = (
            f"{section}.{key}" for section, keys in OF_GENERATE.items() for key in keys if self._says(section, key)
        )
        if (option := next(given, None)) is not None:
            raise ValueError(f"{option} is of task generate, and task {self.task} generates nothing; leave it out")
        return self

    @model_validator(mode="after")
    def _requests(self) -> JobSpec:
        if not self.reads_requests:
            if self.output.format == "openai-batch":
                raise ValueError("output.format openai-batch answers requests; it needs input.format openai-batch")
            return self
        if self.task not in DEFAULT_URL:
            raise ValueError(f"input.format openai-batch is of tasks generate and embed, and task is {self.task}")
        if self.input.url is not None and self.input.url not in URLS[self.task]:
            raise ValueError(f"input.url is of another task than {self.task}; it may be {' or '.join(URLS[self.task])}")
        named = next((name for name in _OF_ROWS if self._says("prompt", name)), None)
        if named is not None:
            raise ValueError(f"prompt.{named} makes prompts of columns, and each line of openai-batch brings its own")
        keep = self.output.keep
        if self.output.format == "openai-batch" and keep is not None and CUSTOM_ID not in keep:
            raise ValueError("output.format openai-batch needs the column custom_id; list it in output.keep")
        return self

    @property
    def reads_requests(self) -> bool:
        """Whether each row of the input is a request in OpenAI's form, which says how it is answered."""
        return self.input.format == "openai-batch"

    @property
    def url(self) -> Url:
        """What every line of an openai-batch input asks for."""
        return self.input.url or DEFAULT_URL[self.task]

    @property
    def splits_replies(self) -> bool:
        """Whether outputs are split into answer, reasoning and calls of tools."""
        if self.task != "generate":
            return False
        is_chat = self.reads_requests and self.url == CHAT
        return self.generation.reasoning == "auto" or (is_chat and self.generation.reasoning is None)

    def _says(self, section: str, key: str) -> bool:
        """Whether a key of a section is set to something else than its default."""
        own = getattr(self, section)
        return getattr(own, key) != type(own).model_fields[key].default

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> JobSpec:
        """Validate plain data. Raises UnknownKeyError or InvalidValueError, naming the first key that is off."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise first_problem(error, cls) from None

    @classmethod
    def section(cls, name: str) -> type[Section] | None:
        """The section of this name; None for a plain key, or one that is unknown."""
        field = cls.model_fields.get(name)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)

    @property
    def fingerprint(self) -> str:
        """Hex digest of what determines the output; FREE_KEYS are left out.

        So are keys at their defaults: a version that knows one key more gives the same job the same digest.
        """
        data = self.model_dump(mode="json", exclude_defaults=True)
        for key in FREE_KEYS:
            section, _, name = key.rpartition(".")
            (data[section] if section else data).pop(name, None)
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
        if self.task == "generate" and isinstance(self.prompt.tools, str):
            named.setdefault(self.prompt.tools, "prompt.tools")
        if self.task in ("classify", "score"):
            named[self.classify.text] = "classify.text"
            if self.classify.text_pair:
                named[self.classify.text_pair] = "classify.text_pair"
        if self.task == "embed":
            named[self.embed.text] = "embed.text"
        if self.reads_requests:
            named = dict.fromkeys((URL, BODY), "input.format")
        if self.model.adapter_column is not None:
            named[self.model.adapter_column] = "model.adapter_column"
        return named
