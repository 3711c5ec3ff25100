"""A job before it is submitted: its size, some rows tokenized, and whether the weights fit the card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from parquetry.producers.plan.device_memory import DeviceMemory
from parquetry.producers.plan.duration import MeasuredRows
from parquetry.producers.plan.faster_backend import faster_backend
from parquetry.producers.plan.foresight import Foresight
from parquetry.producers.plan.predictions import default_price
from parquetry.producers.plan.prompt_lengths import LengthBucket, histogram
from parquetry.producers.plan.sampled_prompts import ErrorExample, SampledPrompts, read_sampled_prompts
from parquetry.producers.plan.target import Target
from parquetry.producers.submission import foresee
from parquetry.schemas.errors import BadInputError, MissingPackageError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.earlier_jobs import EarlierJob, known_paces
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.forecast import Forecast
from parquetry.workers.checkpoint.generation_defaults import generation_defaults
from parquetry.workers.loading.devices.placement import WEIGHT_SHARE
from parquetry.workers.loading.needs import LoadingNeeds, check_kv_dtype
from parquetry.workers.loading.quantization.figures import speed_warning
from parquetry.workers.loading.quantization.quantization import check_quantization
from parquetry.workers.shards.reader import kept_columns

MAX_SAMPLED_ROWS = 256


class Plan(BaseModel):
    """Size, estimated tokens and memory of a job that is not submitted. Nothing was written or queued."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    job: str
    task: str
    model: str
    output: str
    queue: str
    rows: int
    files: int
    shards: int
    #: of the largest shard
    rows_per_shard: int
    sampled_rows: int
    #: sampled rows that would become error rows, for example because they are too long
    sampled_error_rows: int
    #: of these by kind: how many, and one of them
    sampled_errors: dict[str, ErrorExample]
    #: sampled prompts that are the same as an earlier one
    sampled_duplicates: int
    prompt_lengths: tuple[LengthBucket, ...]
    #: that all sampled prompts begin with: computed once, where a model keeps its cache in blocks
    shared_prefix_tokens: int
    mean_prompt_tokens: float
    max_prompt_tokens: int
    #: of the whole job
    prompt_tokens: int
    #: of the whole job, if every row used all of max_new_tokens; 0 for tasks that generate nothing
    max_output_tokens: int
    context_window: int
    #: bytes of the weights on disk
    weight_bytes: int
    #: bytes they take on a GPU, as dtype and quantization ask for, adapters beside them included
    device_weight_bytes: int
    #: the card that is planned for, as its driver or the table of cards calls it; "" where none is known
    device: str
    #: its memory, of the smallest where there are several; None when there is none
    device_bytes: int | None
    #: None when device_bytes is not known
    weights_fit: bool | None
    #: how the engine for generation would share a card out; None for other tasks, and without a card
    device_memory: DeviceMemory | None
    #: how its model's family runs on a GPU, as far as it was tried
    engine: str
    #: sentences on which of the model's own defaults for generation the job takes over, and which not
    model_defaults: tuple[str, ...] = ()
    #: what would become of another job's output that lies there; "" where there is none
    existing_output: str = ""
    #: rows that are finished already
    rows_there: int = 0
    #: of the rows that are not finished; None where no earlier job tells
    prediction: Prediction | None = None
    #: sentences on what the job's choices cost
    warnings: tuple[str, ...] = ()


def plan(
    spec: JobSpec,
    *,
    max_sampled_rows: int = MAX_SAMPLED_ROWS,
    target: Target | None = None,
    paces: Sequence[EarlierJob] | None = None,
    measured: MeasuredRows | None = None,
    gpus: int = 1,
    price_per_gpu_hour: float | None = None,
) -> Plan:
    """Validate the spec, count, and tokenize up to `max_sampled_rows` rows from all over the input.

    `target` is the device to plan for, by default this machine's; `paces` are what earlier jobs tell, by default those
    of this machine's state folder; `measured` are rows that were computed on this machine; `gpus` share the time that
    is predicted, and the price is by default that of the budget. Raises what `submission.prepare` raises.
    """
    prospect, target = foresee(spec), target or Target.of()
    record = prospect.prepared.record
    checkpoint = Checkpoint.resolve(record.spec.model)
    needs = LoadingNeeds(record.spec.model, checkpoint)
    sampled = read_sampled_prompts(record, checkpoint, max_sampled_rows)
    rows = record.shard_plan.num_rows - prospect.rows_there
    price = default_price(record.spec) if price_per_gpu_hour is None else price_per_gpu_hour
    foresight = Foresight(record, needs, sampled, target, rows)
    paces = known_paces() if paces is None else paces
    warnings = (*_warnings(record.spec, target), *foresight.warnings, *faster_backend(record.spec, checkpoint))
    return Plan(
        **_job_facts(record),
        **_token_facts(record, sampled),
        **_weight_facts(needs, target),
        device_memory=foresight.memory,
        context_window=checkpoint.context_window,
        engine=_engine(record.spec, checkpoint),
        model_defaults=_model_defaults(record.spec, checkpoint),
        existing_output=prospect.existing,
        rows_there=prospect.rows_there,
        prediction=foresight.predict(paces, measured, gpus=gpus, price=price),
        warnings=(*warnings, *(f"input {note}" for note in prospect.prepared.notes)),
    )


def _engine(spec: JobSpec, checkpoint: Checkpoint) -> str:
    if spec.task == "generate" and spec.prompt.image is not None:
        return "padded batches: prompts hold images"
    if spec.model.backend in ("auto", "packed"):
        return Forecast.of(spec.task, checkpoint.model_type).text
    return f"{spec.model.backend}, as model.backend says"


def _model_defaults(spec: JobSpec, checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(generation_defaults(checkpoint, spec.generation)) if spec.task == "generate" else ()


def _job_facts(record: JobRecord) -> dict[str, Any]:
    spec, shards = record.spec, record.shard_plan
    return {
        "job": record.job,
        "task": spec.task,
        "model": spec.model.id,
        "output": spec.output.path,
        "queue": queue_of(spec),
        "rows": shards.num_rows,
        "files": len(shards.files),
        "shards": shards.num_shards,
        "rows_per_shard": shards.rows_per_shard,
    }


def _token_facts(record: JobRecord, sampled: SampledPrompts) -> dict[str, Any]:
    generation, rows = record.spec.generation, record.shard_plan.num_rows
    output_tokens = generation.max_new_tokens * generation.n if record.spec.task == "generate" else 0
    return {
        "sampled_rows": sampled.num_rows,
        "sampled_error_rows": sampled.num_errors,
        "sampled_errors": sampled.errors,
        "sampled_duplicates": sampled.num_duplicates,
        "prompt_lengths": histogram(sampled.lengths),
        "shared_prefix_tokens": sampled.num_shared,
        "mean_prompt_tokens": sampled.mean,
        "max_prompt_tokens": sampled.longest,
        "prompt_tokens": round(sampled.mean * rows),
        "max_output_tokens": output_tokens * rows,
    }


def _weight_facts(needs: LoadingNeeds, target: Target) -> dict[str, Any]:
    needed = needs.needed_bytes("cuda")
    return {
        "weight_bytes": needs.checkpoint.weight_bytes,
        "device_weight_bytes": needed,
        "device": target.device or "",
        "device_bytes": target.num_bytes,
        "weights_fit": None if target.num_bytes is None else needed <= target.num_bytes * WEIGHT_SHARE,
    }


def _warnings(spec: JobSpec, target: Target) -> list[str]:
    name = target.device or "" if target.sheet is not None else ""
    found = [speed_warning(spec.model.quantization, card=name), *_refusals(spec, target), target.problem]
    image = spec.prompt.image if spec.task == "generate" else None
    if image is not None:
        found += ["prompt tokens are those of the text; each image adds as many as the model's processor makes of it"]
    if image is not None and image in kept_columns(spec, [image]):
        found += [f"the images of {image} are copied to the output; leave it out of output.keep"]
    return [text for text in found if text]


def _refusals(spec: JobSpec, target: Target) -> list[str]:
    """Why a card that was named would not load the model."""
    card, found = target.card, list[str]()
    if card is None:
        return found
    for check in (check_quantization, check_kv_dtype):
        try:
            check(spec.model, card)
        except MissingPackageError:
            # of this machine, and the card is elsewhere
            continue
        except BadInputError as error:
            found.append(f"{card.name} would refuse the job: {error}")
    return found
