"""A job before it is submitted: its size, some rows tokenized, and whether the weights fit the card."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict

from parquetry.producers.plan.predictions import default_price, expected, predict_from_earlier
from parquetry.producers.plan.prompt_lengths import LengthBucket, histogram
from parquetry.producers.plan.sampled_prompts import ErrorExample, SampledPrompts, read_sampled_prompts
from parquetry.producers.submission import foresee
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.prediction import Prediction
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.forecast import Forecast
from parquetry.workers.checkpoint.generation_defaults import generation_defaults
from parquetry.workers.gpus import GpuQueryError, smallest_gpu_bytes
from parquetry.workers.loading.devices.placement import WEIGHT_SHARE
from parquetry.workers.loading.needs import LoadingNeeds
from parquetry.workers.loading.quantization.figures import speed_warning
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
    #: memory of the smallest GPU here, None when there is none
    device_bytes: int | None
    #: None when device_bytes is not known
    weights_fit: bool | None
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
    device_bytes: int | None = None,
    gpus: int = 1,
    price_per_gpu_hour: float | None = None,
) -> Plan:
    """Validate the spec, count, and tokenize up to `max_sampled_rows` rows from all over the input.

    `device_bytes` is the memory of the device to plan for, by default that of this machine's smallest GPU; `gpus` share
    the time that is predicted, and the price is by default that of the budget. Raises what `submission.prepare` raises.
    """
    prospect = foresee(spec)
    record = prospect.prepared.record
    checkpoint = Checkpoint.resolve(record.spec.model)
    sampled = read_sampled_prompts(record, checkpoint, max_sampled_rows)
    warnings = (*_warnings(record.spec), *(f"input {note}" for note in prospect.prepared.notes))
    if device_bytes is None:
        try:
            device_bytes = smallest_gpu_bytes()
        except GpuQueryError as error:
            warnings = (*warnings, f"whether the weights fit is not known: {error}")
    rows = record.shard_plan.num_rows - prospect.rows_there
    wanted = expected(record, round(sampled.mean * rows), rows)
    price = default_price(record.spec) if price_per_gpu_hour is None else price_per_gpu_hour
    return Plan(
        **_job_facts(record),
        **_token_facts(record, sampled),
        **_weight_facts(record, checkpoint, device_bytes),
        context_window=checkpoint.context_window,
        engine=_engine(record.spec, checkpoint),
        model_defaults=_model_defaults(record.spec, checkpoint),
        existing_output=prospect.existing,
        rows_there=prospect.rows_there,
        prediction=predict_from_earlier(record, wanted, gpus=gpus, price=price),
        warnings=warnings,
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
        "rows_per_shard": max(stop - start for start, stop in pairwise(shards.bounds)),
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
        "mean_prompt_tokens": sampled.mean,
        "max_prompt_tokens": sampled.longest,
        "prompt_tokens": round(sampled.mean * rows),
        "max_output_tokens": output_tokens * rows,
    }


def _weight_facts(record: JobRecord, checkpoint: Checkpoint, device_bytes: int | None) -> dict[str, Any]:
    needed = LoadingNeeds(record.spec.model, checkpoint).needed_bytes("cuda")
    return {
        "weight_bytes": checkpoint.weight_bytes,
        "device_weight_bytes": needed,
        "device_bytes": device_bytes,
        "weights_fit": None if device_bytes is None else needed <= device_bytes * WEIGHT_SHARE,
    }


def _warnings(spec: JobSpec) -> tuple[str, ...]:
    found = [speed_warning(spec.model.quantization, card="")]
    image = spec.prompt.image if spec.task == "generate" else None
    if image is not None:
        found += ["prompt tokens are those of the text; each image adds as many as the model's processor makes of it"]
    if image is not None and image in kept_columns(spec, [image]):
        found += [f"the images of {image} are copied to the output; leave it out of output.keep"]
    return tuple(filter(None, found))
