"""A job before it is submitted: its size, a tokenized sample, and whether the weights fit the card."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from parquetry.producers.devices import smallest_gpu_bytes
from parquetry.producers.submission import prepare
from parquetry.schemas.errors import RowError
from parquetry.schemas.job import JobSpec
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.shard import Shard, ShardPlan
from parquetry.tasks.ledger.job_entry import queue_of
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.generation_defaults import generation_defaults
from parquetry.workers.loading.figures import speed_warning
from parquetry.workers.loading.placement import WEIGHT_SHARE
from parquetry.workers.loading.plan import LoadingPlan
from parquetry.workers.preparation.preparation_choice import choose_preparation
from parquetry.workers.preparation.tokenization import Tokenizer
from parquetry.workers.shards.reader import input_schema, kept_columns, read_shard

SAMPLE_ROWS = 256
#: places of the input the sample is taken from
_SAMPLE_PLACES = 8


class Plan(BaseModel):
    """What a job would be. Token counts are estimates from a sample; nothing was written or queued."""

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
    #: sentences on which of the model's own defaults for generation the job takes over, and which not
    model_defaults: tuple[str, ...] = ()
    #: sentences on what the job's choices cost
    warnings: tuple[str, ...] = ()


def plan(spec: JobSpec, *, sample_rows: int = SAMPLE_ROWS, device_bytes: int | None = None) -> Plan:
    """Validate the spec, count, and tokenize up to `sample_rows` rows from all over the input.

    `device_bytes` is the memory of the device to plan for, by default that of this machine's smallest GPU. Raises what
    `submission.prepare` raises.
    """
    record = prepare(spec)
    checkpoint = Checkpoint.resolve(record.spec.model)
    lengths, num_errors = _sample(record, checkpoint, sample_rows)
    mean = sum(lengths) / max(len(lengths), 1)
    shards = record.plan
    device_bytes = smallest_gpu_bytes() if device_bytes is None else device_bytes
    needed = LoadingPlan(record.spec.model, checkpoint).needed_bytes("cuda")
    return Plan(
        job=record.job,
        task=record.spec.task,
        model=record.spec.model.id,
        output=record.spec.output.path,
        queue=queue_of(record.spec),
        rows=shards.num_rows,
        files=len(shards.files),
        shards=shards.num_shards,
        rows_per_shard=max(stop - start for start, stop in pairwise(shards.bounds)),
        sampled_rows=len(lengths) + num_errors,
        sampled_error_rows=num_errors,
        mean_prompt_tokens=mean,
        max_prompt_tokens=max(lengths, default=0),
        prompt_tokens=round(mean * shards.num_rows),
        max_output_tokens=_max_output_tokens(record),
        context_window=checkpoint.context_window,
        weight_bytes=checkpoint.weight_bytes,
        device_weight_bytes=needed,
        device_bytes=device_bytes,
        weights_fit=None if device_bytes is None else needed <= device_bytes * WEIGHT_SHARE,
        model_defaults=_model_defaults(record.spec, checkpoint),
        warnings=_warnings(record.spec),
    )


def _model_defaults(spec: JobSpec, checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(generation_defaults(checkpoint, spec.generation)) if spec.task == "generate" else ()


def _warnings(spec: JobSpec) -> tuple[str, ...]:
    found = [speed_warning(spec.model.quantization, card="")]
    image = spec.prompt.image if spec.task == "generate" else None
    if image is not None:
        found += ["prompt tokens are those of the text; each image adds as many as the model's processor makes of it"]
    if image is not None and image in kept_columns(spec, [image]):
        found += [f"the images of {image} are copied to the output; leave it out of output.keep"]
    return tuple(filter(None, found))


def _sample(record: JobRecord, checkpoint: Checkpoint, num_rows: int) -> tuple[list[int], int]:
    """Prompt lengths of the sampled rows that have any, and how many have none."""
    preparation = choose_preparation(record, checkpoint, Tokenizer.load(checkpoint.folder))
    schema = input_schema(record)
    lengths, num_errors = [], 0
    for shard in _spread(record.plan, num_rows):
        for batch in read_shard(record, shard, schema):
            for tokens in preparation.tokens(batch):
                if isinstance(tokens, RowError):
                    num_errors += 1
                else:
                    lengths.append(len(tokens.ids))
    return lengths, num_errors


def _spread(plan: ShardPlan, num_rows: int) -> Iterator[Shard]:
    """About `num_rows` rows: the first few of evenly spaced shards, since shards tend to begin with a row group."""
    places = plan.num_shards if num_rows >= plan.num_rows else min(_SAMPLE_PLACES, plan.num_shards)
    each = max(1, num_rows // places) if num_rows < plan.num_rows else plan.num_rows
    for place in range(places):
        index = place * plan.num_shards // places
        start, stop = plan.bounds[index], plan.bounds[index + 1]
        bounds = sorted({0, start, min(start + each, stop)})
        yield ShardPlan(files=plan.files, bounds=tuple(bounds)).shard(len(bounds) - 2)


def _max_output_tokens(record: JobRecord) -> int:
    generation = record.spec.generation
    return record.plan.num_rows * generation.max_new_tokens * generation.n if record.spec.task == "generate" else 0
