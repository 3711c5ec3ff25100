"""Everything that can be known to be wrong with a job before anything of it is written or queued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from parquetry.producers.inputs.inputs import InputTable, find_inputs
from parquetry.producers.inputs.requests import require_asked
from parquetry.producers.output.output_folder import require_outside_input
from parquetry.schemas.errors import (
    InvalidValueError,
    MissingColumnError,
    NoWebhookSecretError,
    TemplateError,
    UnreadableFileError,
    UnsupportedOptionError,
    redact_path,
    suggestion,
)
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.batch_format import CHAT
from parquetry.schemas.spec.columns import reserved_names
from parquetry.schemas.spec.job import JobSpec
from parquetry.schemas.webhook_hosts import WebhookHosts
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.cross_encoder import score_activation
from parquetry.workers.checkpoint.pooling import Pooling
from parquetry.workers.checkpoint.score_modules import pooled_score, score_modules
from parquetry.workers.checkpoint.tokenizer_file import read_tokenizer
from parquetry.workers.grammar.grammar import Grammar
from parquetry.workers.grammar.vocabulary import read_vocabulary
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.vllm_options import check_task, pooling_name
from parquetry.workers.preparation.chat import ChatTemplate
from parquetry.workers.preparation.images.image_column import check_image_type
from parquetry.workers.preparation.pair_template import PairTemplate
from parquetry.workers.preparation.prompts import prompt_limit
from parquetry.workers.preparation.request_params import check_stop_ids, checked_grammar
from parquetry.workers.preparation.requests.chats import Chats
from parquetry.workers.preparation.template import Template
from parquetry.workers.preparation.texts import embedding_prompt
from parquetry.workers.reading.text_rows import is_text
from parquetry.workers.reading.widening import is_list
from parquetry.workers.shards.reader import kept_columns, read_columns, used_columns

ENCODER_BACKENDS = ("onnxruntime", "optimum")


@dataclass(frozen=True)
class CheckedJob:
    """A spec that can run, and what was found while checking it."""

    spec: JobSpec
    table: InputTable
    checkpoint: Checkpoint

    @property
    def read_schema(self) -> pa.Schema:
        """The columns that shards are read with, those the output keeps first."""
        schema = self.table.schema
        names = read_columns(self.spec, schema.names)
        return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def validate(spec: JobSpec) -> CheckedJob:
    """Check options, locations, columns, template and model, the cheap things first. Writes nothing.

    Raises the BadInputError of the first thing that is off; StorageError when the input cannot be reached.
    """
    _check_options(spec)
    template = _template(spec)
    require_outside_input(spec)
    table = _find_inputs(spec, template)
    _require_columns(((name, "input.columns") for name in spec.input.columns or ()), table.columns)
    _check_columns(spec, table, template)
    checkpoint = _check_model(spec)
    _check_names(spec, table.schema, per_token=checkpoint.is_token_classifier)
    return CheckedJob(spec, table, checkpoint)


def _find_inputs(spec: JobSpec, template: Template | None) -> InputTable:
    """The input, compared in the columns that are kept or used and no others."""
    used = used_columns(spec)
    takes_all = spec.output.keep is None or (template is not None and template.names.takes_row)
    keeps_all = takes_all and spec.input.columns is None
    table = find_inputs(spec.input, columns=None if keeps_all else [*kept_columns(spec, ()), *used], needed=used)
    if table.malformed is not None and spec.on_row_error == "fail":
        path, reason = table.malformed
        raise UnreadableFileError(path=path, reason=f"{reason} (on_row_error is fail; keep makes it an error row)")
    if spec.reads_requests:
        require_asked(spec, table.asked)
    return table


def _check_options(spec: JobSpec) -> None:
    if spec.notify and settings().webhook_secret is None:
        raise NoWebhookSecretError()
    for url in spec.notify:
        if objection := WebhookHosts.of_settings().objection(url):
            raise InvalidValueError(key="notify", value=redact_path(url), reason=objection)
    if spec.task == "generate":
        if spec.model.backend in ENCODER_BACKENDS:
            reason = "it serves classify, score and embed; set model.backend to auto"
            raise UnsupportedOptionError(option=f"model.backend {spec.model.backend} for task generate", reason=reason)
        checked_grammar(spec.generation)
    if spec.model.backend == "vllm":
        check_task(spec.task, spec.model)
    if spec.model.backend == "onnxruntime" and spec.model.quantization not in ("none", "int8"):
        reason = "ONNX Runtime has int8; the others are of the torch back ends"
        option = f"model.quantization {spec.model.quantization} with model.backend onnxruntime"
        raise UnsupportedOptionError(option=option, reason=reason)
    _require_distinct("input.columns", spec.input.columns)
    _require_distinct("output.keep", spec.output.keep)


def _require_distinct(key: str, names: list[str] | None) -> None:
    twice = next((name for name, times in Counter(names or ()).items() if times > 1), None)
    if twice is not None:
        raise InvalidValueError(key=key, value=names, reason=f"it names {twice!r} more than once")


def _template(spec: JobSpec) -> Template | None:
    if spec.task != "generate" or spec.prompt.template is None:
        return None
    return Template.parse(spec.prompt.template)


def _check_columns(spec: JobSpec, table: InputTable, template: Template | None) -> None:
    schema, named = table.schema, set(spec.input.columns or table.columns)
    if template is not None:
        _require_no_difference(template, named)
    wanted = [
        *((name, "output.keep") for name in spec.output.keep or ()),
        *spec.needed_columns.items(),
        *((name, "prompt.template") for name in (template.columns(named) if template else ())),
    ]
    _require_columns(wanted, [name for name in table.columns if name in named])
    if spec.task == "generate" and spec.prompt.messages:
        _check_structs("messages", spec.prompt.messages, schema, "a list of structs with role and content")
    if spec.task == "generate" and isinstance(spec.prompt.tools, str):
        _check_structs("tools", spec.prompt.tools, schema, "a list of structs, one schema each")
    if spec.task == "generate" and spec.prompt.image not in (None, spec.prompt.messages):
        check_image_type(spec.prompt.image, schema.field(spec.prompt.image).type)


def _require_no_difference(template: Template, known: Collection[str]) -> None:
    column = template.names.mistaken(known)
    if column is not None:
        spelled = column.replace("-", " - ")
        raise TemplateError(reason=f'it computes {spelled}; the column of that name is written row["{column}"]')


def _require_columns(wanted: Iterable[tuple[str, str]], known: Collection[str]) -> None:
    present = set(known)
    for name, where in wanted:
        if name not in present:
            near = _in_template(name, known) if where == "prompt.template" else suggestion(name, known)
            raise MissingColumnError(where=where, column=name, suggestion=near, columns=", ".join(known))


def _in_template(name: str, known: Collection[str]) -> str:
    """The nearest column as a template writes it."""
    begun = [column for column in known if column.startswith(name) and not column.isidentifier()]
    # `user.name` asks for the column user
    return f' (did you mean row["{begun[0]}"]?)' if begun else suggestion(name, known)


def _check_names(spec: JobSpec, schema: pa.Schema, *, per_token: bool) -> None:
    kept = schema.names if spec.output.keep is None else spec.output.keep
    taken = sorted(set(kept) & reserved_names(spec, per_token=per_token))
    if taken:
        reason = f"the output has a column {taken[0]!r} of its own; list only other columns in output.keep"
        raise InvalidValueError(key="output.keep", value=spec.output.keep or "not set", reason=reason)


def _check_structs(key: str, column: str, schema: pa.Schema, form: str) -> None:
    """Raises InvalidValueError unless the column holds lists of structs, or text that may be the same as JSON."""
    kind = schema.field(column).type
    if not (_may_be_json(kind) or _holds_structs(kind) or (key == "messages" and _is_body(kind))):
        reason = f"the column is {kind}; {key} are {form}, or the same as JSON text"
        raise InvalidValueError(key=f"prompt.{key}", value=repr(column), reason=reason)


def _may_be_json(kind: pa.DataType) -> bool:
    # Parquet's own JSON type is text below
    stored = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    stored = stored.value_type if pa.types.is_dictionary(stored) else stored
    return is_text(stored)


def _holds_structs(kind: pa.DataType) -> bool:
    return is_list(kind) and (pa.types.is_struct(kind.value_type) or pa.types.is_map(kind.value_type))


def _is_body(kind: pa.DataType) -> bool:
    """Whether cells are requests of OpenAI's batches, which hold their messages."""
    return pa.types.is_struct(kind) and kind.get_field_index("messages") >= 0


def _check_model(spec: JobSpec) -> Checkpoint:
    checkpoint = Checkpoint.resolve(spec.model)
    LoadingNeeds(spec.model, checkpoint).check()
    read_tokenizer(checkpoint.tokenizer_folder / "tokenizer.json")
    if spec.task == "generate":
        _check_generator(spec, checkpoint)
        if not spec.reads_requests:
            # the output of a request that leaves its length open gets what room there is
            prompt_limit(spec, checkpoint)
        check_stop_ids(spec.generation, checkpoint)
        if spec.reads_requests and spec.url == CHAT:
            Chats(checkpoint, spec.prompt, datetime.now(UTC))
            return checkpoint
        chat = ChatTemplate.of(checkpoint, spec.prompt, now=datetime.now(UTC))
        if spec.prompt.image is not None:
            _check_vision(spec, checkpoint, chat)
    if spec.task == "classify":
        _check_labels(spec, checkpoint)
    if spec.task in ("classify", "score"):
        _check_scores(spec, checkpoint)
    if spec.task == "score":
        score_activation(checkpoint)
    if spec.task in ("classify", "score") and checkpoint.is_token_classifier:
        _check_token_labels(spec)
    if spec.task == "embed":
        _check_pooling(spec, checkpoint)
    return checkpoint


def _check_generator(spec: JobSpec, checkpoint: Checkpoint) -> None:
    """Raises UnsupportedOptionError, and GrammarError where no grammar can be followed in the model's vocabulary."""
    if checkpoint.is_encoder_decoder and spec.model.backend == "packed":
        reason = f"{checkpoint.model_type} models have an encoder beside the decoder; set model.backend to auto"
        raise UnsupportedOptionError(option="model.backend packed", reason=reason)
    if checkpoint.is_encoder_decoder and spec.model.backend == "vllm":
        reason = f"vLLM serves decoders, and {checkpoint.model_type} models have an encoder; set model.backend to auto"
        raise UnsupportedOptionError(option="model.backend vllm", reason=reason)
    if Grammar.of(spec.generation) is not None:
        tokenizer = read_tokenizer(checkpoint.tokenizer_folder / "tokenizer.json")
        read_vocabulary(tokenizer, tokenizer.get_vocab_size(), checkpoint.eos_ids)


def _check_vision(spec: JobSpec, checkpoint: Checkpoint, chat: ChatTemplate | None) -> None:
    """Raises UnsupportedOptionError where images could not reach the model."""
    option = f"prompt.image with model {checkpoint.id}"
    if not checkpoint.is_vision or checkpoint.is_encoder_decoder:
        found = f"{checkpoint.model_type or 'unknown'} ({checkpoint.architecture or 'no architecture named'})"
        reason = f"its type is {found}, and images need a vision-language decoder such as llava or qwen2_vl"
        raise UnsupportedOptionError(option=option, reason=reason)
    if not checkpoint.has_processor:
        reason = "its folder has no preprocessor_config.json; save its processor beside it with save_pretrained"
        raise UnsupportedOptionError(option=option, reason=reason)
    if chat is not None and not chat.shows_images:
        reason = (
            "its chat template has no placeholder for images; set prompt.chat: false, and write the format yourself"
        )
        raise UnsupportedOptionError(option=option, reason=reason)
    if spec.model.backend == "packed":
        reason = "the packed engine reads text alone; set model.backend to auto"
        raise UnsupportedOptionError(option="model.backend packed with prompt.image", reason=reason)


def _check_pooling(spec: JobSpec, checkpoint: Checkpoint) -> None:
    """Raises UnsupportedOptionError where a sentence-transformers folder asks for what is not built in."""
    embedding_prompt(spec, checkpoint)
    pooling, wanted = checkpoint.pooling or Pooling({}, normalize=False), spec.embed.dimensions
    mode = pooling.mode if spec.embed.pooling == "auto" else spec.embed.pooling
    if spec.model.backend == "vllm":
        pooling_name(mode)
    if checkpoint.hidden_size is None:
        return
    width = pooling.width(checkpoint.hidden_size, mode)
    if wanted is not None and wanted > width:
        reason = f"the model's vectors have {width} numbers"
        raise InvalidValueError(key="embed.dimensions", value=wanted, reason=reason)


def _check_token_labels(spec: JobSpec) -> None:
    """Raises UnsupportedOptionError for options of texts where the model labels tokens."""
    classify = spec.classify
    asked = [("task score", spec.task == "score"), ("classify.text_pair", classify.text_pair is not None)]
    asked += [("classify.top_k", classify.top_k > 1), ("classify.all_scores", classify.all_scores)]
    option = next((name for name, is_set in asked if is_set), None)
    if option is not None:
        reason = "the model labels the tokens of one text (ForTokenClassification); task classify writes its entities"
        raise UnsupportedOptionError(option=f"{option} with this model", reason=reason)


def _check_scores(spec: JobSpec, checkpoint: Checkpoint) -> None:
    """Raises UnsupportedOptionError for modules that are not built in, or a template that takes no pair."""
    if score_modules(checkpoint, spec.task) and spec.task == "score":
        PairTemplate.of(checkpoint, now=datetime.now(UTC))


def _check_labels(spec: JobSpec, checkpoint: Checkpoint) -> None:
    scored = pooled_score(checkpoint, spec.task)
    labels, count = spec.classify.labels, scored.num_labels if scored else checkpoint.num_labels
    if labels is not None and len(labels) != count:
        reason = f"it has {len(labels)} names, but the model has {count} classes"
        raise InvalidValueError(key="classify.labels", value=labels, reason=reason)
    if spec.classify.top_k > count:
        reason = f"the model has only {count} classes"
        raise InvalidValueError(key="classify.top_k", value=spec.classify.top_k, reason=reason)
