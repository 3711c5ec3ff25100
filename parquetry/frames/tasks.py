"""`generate`, `classify`, `embed` and `score`: a table in, the same table with the model's columns out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from parquetry.frames.call import CallOptions, compute
from parquetry.schemas.spec.generation import OWN_COLUMNS, SPLIT_COLUMNS
from parquetry.schemas.spec.json_columns import NoObjectError, json_fields

FrameT = TypeVar("FrameT")
#: a model's folder or hub id, or the whole section `model` of a job
Model = str | Mapping[str, Any]
Rows = list[dict[str, Any]]
_CALL_KEYS = tuple(field.name for field in fields(CallOptions))


class CallKeys(TypedDict, total=False):
    """What every call takes."""

    #: put before the names of the new columns
    prefix: str
    #: a folder in which the files of the job stay, so that the same call reads them instead of computing; without it
    #: they lie in the state folder and are gone once the rows are back
    keep: str | Path | None
    #: progress: by default in a terminal and in a notebook
    show: bool | None
    #: engines on the CPU; by default one engine per visible GPU, or one on the CPU
    workers: int | None
    #: further keys of the job, dotted, as in {"shards.rows": 100}
    options: Mapping[str, Any]


class GenerateKeys(CallKeys, total=False):
    """What `generate` takes: the section `generation` of a job."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    n: int
    stop: list[str]
    stop_token_ids: list[int]
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    skip_special_tokens: bool
    reasoning: Literal["auto", "off"] | None
    logprobs: bool
    json_schema: dict[str, Any] | None
    json_columns: bool
    regex: str | None
    choices: list[str] | None


class ClassifyKeys(CallKeys, total=False):
    """What `classify` takes: the section of that name."""

    text_pair: str | None
    labels: list[str] | None
    top_k: int
    all_scores: bool
    truncate: Literal["error", "right"]


class EmbedKeys(CallKeys, total=False):
    """What `embed` takes: the section of that name."""

    pooling: Literal["auto", "cls", "mean", "last", "max", "mean_sqrt_len", "weighted_mean"]
    normalize: bool
    prompt: str | None
    dimensions: int | None
    dtype: Literal["float16", "float32"]
    truncate: Literal["error", "right"]


class ScoreKeys(CallKeys, total=False):
    """What `score` takes."""

    truncate: Literal["error", "right"]


@overload
def generate(
    frame: list[str] | tuple[str, ...],
    *,
    model: Model,
    prompt: str | Mapping[str, Any],
    **keys: Unpack[GenerateKeys],
) -> Rows: ...
@overload
def generate(
    frame: FrameT, *, model: Model, prompt: str | Mapping[str, Any], **keys: Unpack[GenerateKeys]
) -> FrameT: ...
def generate(frame: Any, *, model: Model, prompt: str | Mapping[str, Any], **keys: Any) -> Any:
    """Have a model write something for every row: columns `output`, `finish_reason`, `prompt_tokens`, `output_tokens`
    and `error`, and with `json_schema` one for each property.

    A row that cannot be computed has its reason in `error` and nulls beside it. A call that was interrupted, or whose
    process died, continues when it is made again.

    Args:
        frame: a pandas or polars DataFrame, a pyarrow Table, a datasets.Dataset, or a list of dicts or strings (which
            a prompt calls `text`). It stays as it is.
        model: a folder or hub id, or the section `model` of a job, as in {"id": "models/x", "quantization": "nf4"}.
        prompt: a Jinja template over the columns, or the section `prompt` of a job, as in {"messages": "chat"}.
        keys: those of GenerateKeys.

    Returns the same kind of table, its index and order kept, with the new columns. Raises a BadInputError for what
    cannot run, before anything is computed, and FrameNotDoneError.

    """
    call, section = _split(keys)
    schema = section.get("json_schema")
    if schema is not None and "json_columns" not in section:
        section["json_columns"] = _has_columns(schema, section.get("reasoning") == "auto")
    return _compute(frame, "generate", model, call, prompt=_prompt(prompt), generation=section)


@overload
def classify(
    frame: list[str] | tuple[str, ...], *, model: Model, text: str = ..., **keys: Unpack[ClassifyKeys]
) -> Rows: ...
@overload
def classify(frame: FrameT, *, model: Model, text: str = ..., **keys: Unpack[ClassifyKeys]) -> FrameT: ...
def classify(frame: Any, *, model: Model, text: str = "text", **keys: Any) -> Any:
    """Label the texts of the column `text`: columns `label`, `score` and `error`; `entities` from a model of tokens.

    Arguments and what is raised are those of `generate`, with the keys of ClassifyKeys.
    """
    call, section = _split(keys)
    return _compute(frame, "classify", model, call, classify={"text": text, **section})


@overload
def embed(frame: list[str] | tuple[str, ...], *, model: Model, text: str = ..., **keys: Unpack[EmbedKeys]) -> Rows: ...
@overload
def embed(frame: FrameT, *, model: Model, text: str = ..., **keys: Unpack[EmbedKeys]) -> FrameT: ...
def embed(frame: Any, *, model: Model, text: str = "text", **keys: Any) -> Any:
    """Make vectors of the texts of the column `text`: columns `embedding` and `error`.

    Arguments and what is raised are those of `generate`, with the keys of EmbedKeys.
    """
    call, section = _split(keys)
    return _compute(frame, "embed", model, call, embed={"text": text, **section})


def score(frame: FrameT, *, model: Model, text: str = "text", text_pair: str, **keys: Unpack[ScoreKeys]) -> FrameT:
    """Score pairs of texts, of the columns `text` and `text_pair`: columns `score` and `error`.

    Arguments and what is raised are those of `generate`, with the keys of ScoreKeys.
    """
    call, section = _split(keys)
    found: FrameT = _compute(frame, "score", model, call, classify={"text": text, "text_pair": text_pair, **section})
    return found


def _split(keys: Mapping[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
    """What is of the call, and what is of its task."""
    call = CallOptions(**{name: value for name, value in keys.items() if name in _CALL_KEYS})
    return call, {name: value for name, value in keys.items() if name not in _CALL_KEYS}


def _prompt(prompt: str | Mapping[str, Any]) -> Mapping[str, Any]:
    return {"template": prompt} if isinstance(prompt, str) else prompt


def _has_columns(schema: Mapping[str, Any], is_split: bool) -> bool:
    """Whether each property of a schema can be a column of its own."""
    taken = OWN_COLUMNS + (SPLIT_COLUMNS if is_split else ())
    try:
        return not any(field.name in taken for field in json_fields(dict(schema)))
    except NoObjectError:
        return False


def _compute(frame: Any, task: str, model: Model, call: CallOptions, **sections: Mapping[str, Any]) -> Any:
    named = {"id": model} if isinstance(model, str) else model
    return compute(frame, {"task": task, "model": named, **sections}, call)
