"""What the output folder says of itself: `_job.json` at the start, `_manifest.json` and `_SUCCESS` at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parquetry.schemas.errors import NewerRecordError, RecordChangedError, UnreadableFileError
from parquetry.schemas.shard import ShardPlan
from parquetry.schemas.spec.job import JobSpec

JOB_FILE = "_job.json"
MANIFEST_FILE = "_manifest.json"
SUCCESS_FILE = "_SUCCESS"
#: what ran and how it went, for people; written at the end
REPORT_FILE = "_report.html"
ATTEMPTS_FOLDER = "_attempts"
FORMAT_VERSION = 2


class JobRecord(BaseModel):
    """The content of `_job.json`: enough to rebuild the job in an empty Redis."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)

    version: int = FORMAT_VERSION
    job: str
    created: str
    spec: JobSpec
    #: the model folder or hub commit the id resolved to at submit
    model_path: str
    #: named plan in the file
    shard_plan: ShardPlan = Field(alias="plan")
    #: the input columns that shards are read with, the same for every file; see `columns.schema_text`
    input_schema: str = ""
    #: the job whose output lay here before, while its files are being removed: nothing of this job runs until then
    replaces: str = ""
    #: of an id that was not made of the spec alone, since the job was extended or took over an output: tells an edit
    spec_digest: str = ""
    #: digests of the records that it had before it was extended, whose claims are still good
    grown_from: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: bytes, path: object) -> JobRecord:
        """The record that lies at `path`.

        Raises NewerRecordError, UnreadableFileError, and RecordChangedError when its spec is not the one that its id
        or its `spec_digest` was made of.
        """
        try:
            record = cls.model_validate_json(data)
        except ValidationError as error:
            raise _problem(error, path) from None
        if record.version > FORMAT_VERSION:
            raise NewerRecordError(path=path, version=f"version {record.version}", known=FORMAT_VERSION)
        if record.job != job_id(record.spec) and record.spec_digest != _spec_digest(record):
            raise RecordChangedError(job=record.job, path=path)
        return record

    @property
    def digest(self) -> str:
        """Hex digest of what was submitted, the shard plan too, without name, priority, budget and webhooks.

        These may change. As with `JobSpec.fingerprint`, what is at its default is left out.
        """
        spec = {"name", "priority", "budget", "notify"}
        text = self.model_dump_json(exclude={"version": True, "spec": spec}, exclude_defaults=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def signed(self) -> JobRecord:
        """The same with the `spec_digest` it needs where its id is not made of its spec alone."""
        return self.model_copy(update={"spec_digest": _spec_digest(self) if self.job != job_id(self.spec) else ""})

    def continues(self, digest: str) -> bool:
        """Whether it is the record of this digest, or what that one has become by being extended."""
        return digest == self.digest or digest in self.grown_from

    def stored(self) -> bytes:
        """What is written to the output: all but the addresses of webhooks, whose paths may be tokens."""
        return self.told_to([]).model_dump_json(indent=1).encode()

    def told_to(self, notify: Sequence[str]) -> JobRecord:
        """The same with these webhooks."""
        return self.model_copy(update={"spec": self.spec.model_copy(update={"notify": list(notify)})})


def _spec_digest(record: JobRecord) -> str:
    return hashlib.sha256(f"{record.job}\n{job_id(record.spec)}".encode()).hexdigest()


def job_id(spec: JobSpec, *, replaced: str = "") -> str:
    """`<task>-<12 hex digits>` of what determines the output and where it goes. `spec` must have absolute locations.

    A job that takes over the output of the job `replaced` has another id than it would have in an empty folder: parts
    of all that ever lay there can be told apart.
    """
    text = f"{spec.fingerprint}\n{spec.output.path}" + (f"\n{replaced}" if replaced else "")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{spec.task}-{digest[:12]}"


def _problem(error: ValidationError, path: object) -> NewerRecordError | UnreadableFileError:
    """What is said of a record that does not validate: one of a newer version has keys that this one does not know."""
    problems = error.errors(include_url=False)
    unknown = next((problem for problem in problems if problem["type"] == "extra_forbidden"), None)
    if unknown is not None:
        key = ".".join(map(str, unknown["loc"]))
        return NewerRecordError(path=path, version=f"the key {key}", known=FORMAT_VERSION)
    return UnreadableFileError(path=path, reason=problems[0]["msg"])


class RowRound(BaseModel):
    """What the last retry of rows has added to a part, as its footer tells."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: see RowRetry
    round: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    #: error rows before it, by what was wrong with them
    errors_before: dict[str, int] = {}


class PartRecord(BaseModel):
    """One finished part, as its verified footer and its file tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    shard: int
    fence: int
    rows: int
    error_rows: int
    #: bytes
    size: int
    #: hex digest of the whole file
    sha256: str
    #: empty for a file that storage has not listed
    etag: str
    #: of all rows; not in the manifest, which is written from digests that do not hold them
    prompt_tokens: int = Field(0, exclude=True)
    output_tokens: int = Field(0, exclude=True)
    #: from the first row read to the last one written; what of it was preparing and writing rows. 0 where the part was
    #: found: two attempts of a shard are alike to the byte, so it can't be in the file
    shard_ms: int = Field(0, exclude=True)
    prepare_ms: int = Field(0, exclude=True)
    write_ms: int = Field(0, exclude=True)
    #: rows that this attempt took from seals of earlier ones, and their tokens
    reused_rows: int = Field(0, exclude=True)
    reused_prompt_tokens: int = Field(0, exclude=True)
    reused_output_tokens: int = Field(0, exclude=True)
    #: error rows by what is wrong with them, numbers aside
    errors: dict[str, int] = Field({}, exclude=True)
    #: round 0 of a part whose rows were never retried
    last_round: RowRound = Field(RowRound(), exclude=True)

    def added_in(self, round: int) -> PartRecord:
        """The part as it counts for a queue that has counted it as it was before this round."""
        mine = self.last_round if self.last_round.round == round else RowRound(errors_before=self.errors)
        kinds = {*self.errors, *mine.errors_before}
        grown = {kind: self.errors.get(kind, 0) - mine.errors_before.get(kind, 0) for kind in kinds}
        tokens = {"prompt_tokens": mine.prompt_tokens, "output_tokens": mine.output_tokens}
        return self.model_copy(update={**tokens, "errors": {kind: more for kind, more in grown.items() if more}})


class Manifest(BaseModel):
    """The content of `_manifest.json`: the parts that make up the output, in row order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = FORMAT_VERSION
    job: str
    rows: int
    error_rows: int
    parts: tuple[PartRecord, ...]

    def covers(self, record: JobRecord) -> bool:
        """Whether it lists every part of the job, and not those alone that there were before it was extended."""
        return self.job == record.job and len(self.parts) == record.shard_plan.num_shards
