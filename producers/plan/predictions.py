"""What is predicted of a job from earlier ones of the same engine and device, and what a plan has said of it."""

from __future__ import annotations

from typing import NamedTuple

from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.prediction import Prediction, Range
from parquetry.schemas.recent_files import RecentFiles
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.earlier_jobs import (
    EARLIER_JOBS,
    EarlierJob,
    common_device,
    cpu_here,
    engine_digest,
    settings_digest,
)
from parquetry.tasks.ledger.ledger import Ledger
from parquetry.workers.gpus import GpuQueryError, visible_gpus

#: by job: what `plan` has said, for whoever submits that job
PLANNED = RecentFiles("predictions", Prediction)
#: how far jobs of the same settings may be apart, as a part: their texts differ
MARGIN = 0.25
#: one output token costs about as much as so many of a prompt: 42,600 and 19,100 a second on one card
OUTPUT_COST = 2.2


class Expected(NamedTuple):
    """What is known of a job's rows before they are computed."""

    rows: int
    #: None where no prompt was looked at: then they are as long as those of the earlier job
    prompt_tokens: int | None
    #: of all rows, if each used all that it may
    max_output_tokens: int


def expected(record: JobRecord, prompt_tokens: int | None = None, rows: int | None = None) -> Expected:
    """Of a record's rows, by default all."""
    generation = record.spec.generation
    rows = record.shard_plan.num_rows if rows is None else rows
    most = generation.max_new_tokens * generation.n if record.spec.task == "generate" else 0
    return Expected(rows, prompt_tokens, most * rows)


def predict_from_earlier(
    record: JobRecord, wanted: Expected, *, device: str | None = None, gpus: int = 1, price: float | None = None
) -> Prediction | None:
    """By the job that tells most; None where none is known. `device` is by default this machine's."""
    engine = engine_digest(record)
    alike = [job for job in EARLIER_JOBS.all() if job.engine == engine]
    if not alike or (device := device or device_here()) is None:
        return None
    settings = settings_digest(record)
    alike = [job for job in alike if job.device == device and (job.settings == settings or wanted.prompt_tokens)]
    if not alike:
        return None
    best = max(alike, key=lambda job: (job.settings == settings, job.rows, job.ended))
    return from_earlier(best, wanted, is_same=best.settings == settings, gpus=gpus, price=price)


def from_earlier(job: EarlierJob, wanted: Expected, *, is_same: bool, gpus: int, price: float | None) -> Prediction:
    """By the pace of one job, whose settings are the same or which shares only model and device."""
    prompts = job.prompt_tokens / job.rows * wanted.rows if wanted.prompt_tokens is None else wanted.prompt_tokens
    outputs = _outputs(job, wanted, is_same=is_same)
    costs = [_cost(prompts, each) / _cost(job.computed_prompt_tokens, job.computed_output_tokens) for each in outputs]
    parts = [costs[1], *(costs if not is_same else ())]
    # whichever of the two a card is busy with, the truth lies between these
    parts += [prompts / job.computed_prompt_tokens] if job.computed_prompt_tokens else []
    parts += [outputs[1] / job.computed_output_tokens] if job.computed_output_tokens else []
    seconds = (min(parts) * (1 - MARGIN), costs[1], max(parts) * (1 + MARGIN))
    share = f"of the same settings ({job.rows:,} rows)" if is_same else "of the same model, with another prompt"
    return Prediction.of_cards(
        wanted.rows,
        outputs,
        (seconds[0] * job.card_s, seconds[1] * job.card_s, seconds[2] * job.card_s),
        gpus=gpus,
        price=price,
        source=f"by the pace of job {job.job} {share} on {job.device}",
    )


def _outputs(job: EarlierJob, wanted: Expected, *, is_same: bool) -> Range:
    most = float(wanted.max_output_tokens)
    mean = min(job.output_tokens / job.rows * wanted.rows, most)
    return (mean * (1 - MARGIN), mean, min(mean * (1 + MARGIN), most)) if is_same else (0.0, mean, most)


def _cost(prompt_tokens: float, output_tokens: float) -> float:
    return max(prompt_tokens + OUTPUT_COST * output_tokens, 1.0)


def device_here() -> str | None:
    """The kind of device that an engine gets on this machine, None where there are several or the driver is silent."""
    try:
        names = {gpu.name for gpu in visible_gpus()}
    except GpuQueryError:
        return None
    return cpu_here() if not names else names.pop() if len(names) == 1 else None


def store_prediction(ledger: Ledger, record: JobRecord) -> None:
    """Store with a job that was just submitted what its plan has said, else what an earlier job tells."""
    found = PLANNED.get(record.job) or _unplanned(ledger, record)
    if found is not None:
        ledger.set_prediction(record.job, found)


def _unplanned(ledger: Ledger, record: JobRecord) -> Prediction | None:
    workers = ledger.workers()
    device = common_device(workers)
    if workers and device is None:
        return None
    return predict_from_earlier(record, expected(record), device=device, price=default_price(record.spec))


def default_price(spec: JobSpec) -> float | None:
    """Of a GPU hour, as a job's budget has it."""
    return spec.budget.price_per_gpu_hour if spec.budget else None
