"""What is predicted of a job from earlier ones of the same engine and device, and what a plan has said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from parquetry.producers.plan.target import Target
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.prediction import Prediction, Range
from parquetry.schemas.recent_files import RecentFiles
from parquetry.schemas.spec.job import JobSpec
from parquetry.tasks.earlier_jobs import EarlierJob, engine_digest, known_paces, settings_digest
from parquetry.tasks.ledger.ledger import Ledger

#: by job: what `plan` has said, for whoever submits that job
PLANNED = RecentFiles("predictions", Prediction)
#: how far jobs of the same settings may be apart, as a part: their texts differ
MARGIN = 0.25
#: as many jobs as that margin is worth where several have shown how far they are apart
MARGIN_WEIGHT = 2
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
    record: JobRecord,
    wanted: Expected,
    paces: Sequence[EarlierJob],
    is_device: Callable[[str], bool],
    *,
    gpus: int = 1,
    price: float | None = None,
) -> Prediction | None:
    """By the job on such a device that tells most, and by how far those like it are apart; None where none is known."""
    engine, settings = engine_digest(record), settings_digest(record)
    alike = [job for job in paces if job.engine == engine and is_device(job.device)]
    same = [job for job in alike if job.settings == settings]
    if not (same or (alike and wanted.prompt_tokens)):
        return None
    best = max(same or alike, key=lambda job: (job.rows, job.ended))
    return from_earlier(best, wanted, same, gpus=gpus, price=price)


def from_earlier(
    job: EarlierJob, wanted: Expected, same: Sequence[EarlierJob], *, gpus: int, price: float | None
) -> Prediction:
    """By the pace of one job, and of all with the `same` settings; without any it shares only model and device."""
    prompts = job.prompt_tokens / job.rows * wanted.rows if wanted.prompt_tokens is None else wanted.prompt_tokens
    outputs, margin = output_range(wanted, same or [job], is_same=bool(same)), apart([_pace(one) for one in same])
    costs = [_cost(prompts, each) * _pace(job) for each in outputs]
    parts = [costs[1], *(costs if not same else ())]
    # whichever of the two a card is busy with, the truth lies between these
    parts += [prompts / job.computed_prompt_tokens * job.card_s] if job.computed_prompt_tokens else []
    parts += [outputs[1] / job.computed_output_tokens * job.card_s] if job.computed_output_tokens else []
    share = f"of the same settings ({job.rows:,} rows)" if same else "of the same model, with another prompt"
    others = f", and {len(same) - 1} more" if len(same) > 1 else ""
    return Prediction.of_cards(
        wanted.rows,
        outputs,
        (min(parts) * (1 - margin), costs[1], max(parts) * (1 + margin)),
        gpus=gpus,
        price=price,
        source=f"by the pace of job {job.job} {share} on {job.device}{others}",
    )


def output_range(wanted: Expected, jobs: Sequence[EarlierJob], *, is_same: bool) -> Range:
    """Output tokens by what rows of earlier jobs had; those of other settings tell what is likely and no bound."""
    most = float(wanted.max_output_tokens)
    per_row = [job.output_tokens / job.rows for job in jobs]
    margin = apart(per_row)
    mean = min(fmean(per_row) * wanted.rows, most)
    return (mean * (1 - margin), mean, min(mean * (1 + margin), most)) if is_same else (0.0, mean, most)


def apart(values: Sequence[float]) -> float:
    """How far the next one may be from these, as a part: MARGIN for one, less for several that are close together."""
    logs = [math.log(value) for value in values if value > 0]
    if not logs:
        return MARGIN
    mean, usual = fmean(logs), math.log1p(MARGIN)
    # as far as nine of ten of a normal distribution
    squares = MARGIN_WEIGHT * usual**2 + sum((1.645 * (value - mean)) ** 2 for value in logs)
    width = math.sqrt(squares / (MARGIN_WEIGHT + len(logs) - 1) * (1 + 1 / len(logs)) / 2)
    return min(0.9, math.expm1(width))


def _pace(job: EarlierJob) -> float:
    """Seconds of a card for what one prompt token costs."""
    return job.card_s / _cost(job.computed_prompt_tokens, job.computed_output_tokens)


def _cost(prompt_tokens: float, output_tokens: float) -> float:
    return max(prompt_tokens + OUTPUT_COST * output_tokens, 1.0)


def store_prediction(ledger: Ledger, record: JobRecord) -> None:
    """Store with a job that was just submitted what its plan has said, else what an earlier job tells."""
    found = PLANNED.get(record.job) or _unplanned(ledger, record)
    if found is not None:
        ledger.set_prediction(record.job, found)


def _unplanned(ledger: Ledger, record: JobRecord) -> Prediction | None:
    target = Target.of(workers=ledger.workers())
    price = default_price(record.spec)
    return predict_from_earlier(record, expected(record), known_paces(ledger), target.is_device, price=price)


def default_price(spec: JobSpec) -> float | None:
    """Of a GPU hour, as a job's budget has it."""
    return spec.budget.price_per_gpu_hour if spec.budget else None
