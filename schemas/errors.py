"""Every error raised on purpose. The class docstring is the message; its braces are filled from keywords."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import cast


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    DONE = 0
    FAILED_SHARDS = 1
    BAD_INPUT = 2
    UNUSABLE_ENVIRONMENT = 3
    INTERRUPTED = 130


class ParquetryError(Exception):
    """Something went wrong."""

    exit_code = ExitCode.UNUSABLE_ENVIRONMENT
    retryable = False

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        super().__init__(" ".join(inspect.cleandoc(type(self).__doc__ or "").split()).format(**fields))

    def __reduce__(self) -> tuple[Callable[..., ParquetryError], tuple[type[ParquetryError], dict[str, object]]]:
        return (_rebuild, (type(self), self.fields))


def _rebuild(cls: type[ParquetryError], fields: dict[str, object]) -> ParquetryError:
    return cls(**fields)


class RetryableError(ParquetryError):
    """A passing fault; the same work may succeed later."""

    retryable = True


class PermanentError(ParquetryError):
    """The same work would fail again."""


class BadInputError(PermanentError):
    """{reason}"""

    exit_code = ExitCode.BAD_INPUT


class UnusableEnvironmentError(PermanentError):
    """{reason}"""


class WrongSettingError(UnusableEnvironmentError):
    """{reason}"""

    # another try would end the same way
    exit_code = ExitCode.BAD_INPUT


# Job spec


class SpecNotFoundError(BadInputError):
    """There is no job spec at {path}."""


class SpecSyntaxError(BadInputError):
    """The job spec {path} is not valid YAML or JSON: {reason}."""


class UnknownKeyError(BadInputError):
    """The job spec has an unknown key {key}{suggestion}."""


class InvalidValueError(BadInputError):
    """The job spec's {key} is {value}: {reason}."""


class UnsupportedOptionError(BadInputError):
    """{option} is not supported: {reason}."""


# Input and output


class InputNotFoundError(BadInputError):
    """No input file matches {path}{found}."""


class EmptyInputError(BadInputError):
    """The input {path} has no rows."""


class TableFormatError(BadInputError):
    """The input {path} belongs to a table of {format}, whose folder also holds rows that are gone: {remedy}."""


class MissingColumnError(BadInputError):
    """{where} names the column {column!r}, which the input does not have{suggestion}. Its columns are: {columns}."""


class UnreadableFileError(BadInputError):
    """The input file {path} cannot be read: {reason}."""


class MixedSchemasError(BadInputError):
    """The input files do not share one schema: {differences}."""


class OutputTakenError(BadInputError):
    """The output {path} belongs to another job ({job}); choose another folder, or submit the spec it was made with."""


class RecordChangedError(BadInputError):
    """The record {path} is not what job {job} was submitted with; put it back as it was and `parquetry retry` the job,
    or submit the other spec to a new folder."""


class NewerRecordError(UnusableEnvironmentError):
    """The record {path} has {version}, and this version of parquetry reads records up to version {known}; upgrade it
    here, or leave the job to newer workers."""


class OtherJobHereError(OutputTakenError):
    """The output {path} belongs to another job ({job}), which differs in {differences}. Three ways on: another
    output.path; output.on_existing=overwrite, which removes what is there once the new job is found to be sound;
    output.on_existing=extend, which {extending}."""


class JobStillRunsError(BadInputError):
    """The output {path} belongs to job {job}, which is {state}: it is not changed under the hands of its workers.
    Wait for its end, or stop it ({remedy}), and submit again."""


class CannotExtendError(BadInputError):
    """Job {job} in {path} cannot be extended: {reason}. The rows that are there would not be those of the new spec;
    choose another output.path, or set output.on_existing to overwrite."""


class OutputNotEmptyError(BadInputError):
    """The output {path} holds files that no job wrote ({files}); choose an empty or a new folder."""


class OutputInsideInputError(BadInputError):
    """The output {path} lies inside the input {input}; choose a folder outside it."""


class InputReplacedError(BadInputError):
    """The input is not what job {job} in {path} was submitted with: {difference}. Choose a new output folder for it, or
    set output.on_existing: extend computes the rows of new files, overwrite begins anew."""


class InputChangedError(PermanentError):
    """The input file {path} changed after the job was submitted (size or etag differs); submit a new job."""


class LocationError(BadInputError):
    """{uri} is not a usable location: {reason}."""


class StorageError(RetryableError):
    """{operation} of {path} failed: {reason}."""


class PutIfAbsentError(UnusableEnvironmentError):
    """The storage at {path} does not honour put-if-absent ({reason}), so two workers could overwrite each other."""


# Prompts


class TemplateError(BadInputError):
    """The prompt template is not usable: {reason}."""


class RowError(ParquetryError):
    """{reason}"""


# Model


class ModelNotFoundError(BadInputError):
    """There is no model at {model}: {reason}."""


class UnusableModelError(BadInputError):
    """The model {model} cannot be used: {reason}."""


class UnsafeWeightsError(BadInputError):
    """The model {model} has no .safetensors weights; convert it with save_pretrained(..., safe_serialization=True)."""


class MissingTokenizerError(BadInputError):
    """The model {model} has no tokenizer.json; where transformers and its tokenizer's package are installed, write one:
    python -c "from transformers import AutoTokenizer as T; T.from_pretrained('{model}').save_pretrained('{model}')"."""


class NoWebhookSecretError(BadInputError):
    """notify needs a secret that signs what webhooks are sent; set PARQUETRY_WEBHOOK_SECRET here and on the workers."""


class MissingPackageError(UnusableEnvironmentError):
    """{feature} needs the package {package}, which is not installed here; run: pip install '{install}'."""


class ModelTooLargeError(BadInputError):
    """The model {model} takes {needed} as {kind}, but {where} may hold {allowed}: {missing} are missing; {remedy}."""


class UnsupportedQuantizationError(BadInputError):
    """model.quantization {quantization} cannot be used here: {reason}."""


class UnsupportedAttentionError(BadInputError):
    """model.attention {attention} cannot be used here: {reason}. Supported here: {supported}."""


class AdapterMismatchError(BadInputError):
    """The adapter {adapter} does not fit the model {model}: {reason}."""


class GrammarError(BadInputError):
    """The {kind} cannot be compiled into a grammar: {reason}."""


# Engine


class EngineStartError(RetryableError):
    """The engine did not start: {reason}."""


class OtherWeightsError(RetryableError):
    """The loaded weights cannot stay: {reason}."""


class EngineLostError(RetryableError):
    """The engine went away: {reason}."""

    @property
    def reason(self) -> str:
        """Why, without the sentence around it."""
        return str(self.fields["reason"])


class EngineFaultError(EngineLostError):
    """The engine went away: {reason}."""

    @property
    def faults(self) -> list[list[int]]:
        """Shards of the job in flight whenever this device's engines failed for this reason, this time last."""
        return list(cast("list[list[int]]", self.fields["faults"]))


class EngineUnfitError(PermanentError):
    """The engine fails on different rows for one reason: {reason}. The job stops before it makes error rows of more of
    them; if the rows are to blame and not the model, `parquetry retry` (or the same `parquetry run` again) does."""


class EngineRefusedError(PermanentError):
    """The engine refused the job: {reason}."""


# Queue


class BrokerUnreachableError(UnusableEnvironmentError):
    """The broker {url} cannot be reached: {reason}. Start it, or set PARQUETRY_BROKER_URL."""


class BrokerNotServingError(BrokerUnreachableError):
    """The broker {url} answers, but does not serve for now: {reason}. Free its memory or disk, or wait."""


class BrokerRefusedError(WrongSettingError):
    """The broker {url} cannot be used: {reason}."""


class UnknownJobError(BadInputError):
    """There is no job {job}{suggestion}; `parquetry jobs` lists them."""


class UnknownWorkerError(BadInputError):
    """There is no worker {worker} any more; `parquetry jobs` lists those that live."""


class AmbiguousJobError(BadInputError):
    """{job} may be any of {count} jobs: {jobs}; give more of the id."""


class BudgetSpentError(BadInputError):
    """Job {job} has spent its budget of {budget}; raise it: parquetry resume {job} --set budget.{key}={more}."""


class IllegalTransitionError(BadInputError):
    """Job {job} is {state}, so it cannot be {wanted}."""


class LeaseLostError(RetryableError):
    """The lease of shard {shard} was lost; another worker has it or will take it."""


class JobStoppedError(RetryableError):
    """Job {job} is {state}; the shard was given back."""


class ShardFailedError(PermanentError):
    """Shard {shard} failed: {reason}."""


class PartInvalidError(PermanentError):
    """The part {path} is not what shard {shard} must hold: {reason}."""


class PermitFormatError(PermanentError):
    """A permit message is malformed: {reason}."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name nearest to `name`, else the empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def redact(url: str) -> str:
    """The broker URL without its user, password and options, fit for logs and errors."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        # with a slash or a colon mistyped, the password stands somewhere in it all the same
        scheme, rest = "", url
    # an option may be the password of a key file
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def redact_path(url: str) -> str:
    """A web address as far as its host: a token may stand in any part behind that, or before it."""
    scheme, separator, rest = redact(url).partition("://")
    host = rest.partition("/")[0].partition("#")[0]
    return f"{scheme}{separator}{host}/..."
