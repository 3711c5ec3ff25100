"""Calls on jobs: `submit` one to a broker's workers, `run` one on this machine, `plan` it, find those there are."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parquetry.api.job import Job
from parquetry.api.shown import shown
from parquetry.broker import open_ledger
from parquetry.local.standing import standing_site, standing_url
from parquetry.schemas.progress.status import JobStatus, WorkerStatus
from parquetry.schemas.settings import settings
from parquetry.schemas.spec.job import JobSpec
from parquetry.spec_file import load_spec

if TYPE_CHECKING:
    import pyarrow as pa

    from parquetry.local.run import FinishedRun
    from parquetry.local.site import Site
    from parquetry.monitor.job_view import JobView
    from parquetry.producers.plan.duration import MeasuredRows
    from parquetry.producers.plan.planning import Plan
    from parquetry.terminal.bars import Display

log = logging.getLogger(__name__)
#: a JobSpec, the same as plain data, or the path of a spec file
SpecLike = JobSpec | Mapping[str, Any] | str | Path


def submit(spec: SpecLike, *, broker_url: str | None = None) -> Job:
    """Register a job with the broker (PARQUETRY_BROKER_URL by default); `parquetry worker` processes run it.

    The same spec submitted again is the same job. Raises a BadInputError for a spec that cannot run.
    """
    from parquetry.producers.submission import submit as register
    from parquetry.tasks.budget_change import raise_budget

    url = broker_url or settings().broker_url
    ledger = open_ledger(url)
    for sentence in ledger.durability_warnings():
        log.warning("%s", sentence)
    made = register(as_spec(spec), ledger, broker_url=url)
    if not made.created:
        raise_budget(ledger, made.job, as_spec(spec).budget)
    output = made.record.spec.output.path
    return Job(made.job, output, ledger, url=url, is_new=made.created, rows_added=made.rows_added)


def run(
    spec: SpecLike,
    *,
    workers: int | None = None,
    show: bool | None = None,
    retry_rows: Mapping[str, Any] | None = None,
    wait: bool = True,
) -> Job:
    """Run a whole job on this machine and return when it has ended. What is done already is not done again.

    Its worker stays for the next call, with the model that it has loaded, until the process ends or `parquetry.close`.

    Args:
        spec: the job.
        workers: CPU engines to start; by default one engine per visible GPU, or one on the CPU.
        show: draw progress; by default in a terminal and in a notebook.
        retry_rows: compute the error rows of the job, which has ended, anew, with these settings for them by dotted
            key, as in {"generation.max_new_tokens": 512}; {} changes none.
        wait: False returns as soon as a worker has begun: follow the job, `await` it, or `stream` its rows.

    """
    site = standing_site()
    if not wait:
        return _started(site, as_spec(spec), workers, retry_rows)
    finished = run_at(site, spec, shown(show), workers=workers, retry_rows=retry_rows)
    return Job(finished.status.job, finished.status.output, finished.ledger, url=finished.url, finished=finished)


def _started(site: Site, spec: JobSpec, workers: int | None, retry_rows: Mapping[str, Any] | None) -> Job:
    from parquetry.local.run import begin_job

    with site.broker() as (url, ledger):
        begun = begin_job(spec, ledger, url, retry=retry_rows)
        if begun.before.state.is_final:
            return Job(begun.job, begun.before.output, ledger, url=url)
        with site.worker(ledger, begun.job, begun.command(url, workers)) as worker:
            return Job(begun.job, begun.before.output, ledger, url=url, worker=worker)


def run_at(
    site: Site,
    spec: SpecLike,
    display: Display,
    *,
    workers: int | None = None,
    retry_rows: Mapping[str, Any] | None = None,
) -> FinishedRun:
    """The same at a site of the caller's, shown as the caller wants it."""
    from parquetry.local.run import run_job

    return run_job(as_spec(spec), site, display, workers=workers, retry=retry_rows)


def plan(
    spec: SpecLike,
    *,
    card: str | None = None,
    gpus: int = 1,
    price_per_gpu_hour: float | None = None,
    measured: MeasuredRows | None = None,
) -> Plan:
    """A job's rows, shards, estimated tokens and memory; its time and cost on `gpus` cards, by earlier jobs like it.

    Nothing is written, and no broker is needed; where one is configured, its workers and what its jobs have told count.

    Args:
        spec: the job.
        card: another card than theirs or this machine's, such as "h100". Raises UnknownCardError.
        gpus: how many the job is to have.
        price_per_gpu_hour: by default that of the job's budget.
        measured: rows of the job that were computed for real, which tell more than earlier jobs.

    """
    from parquetry.evidence import gather_evidence
    from parquetry.producers.plan.planning import plan as made

    known = gather_evidence(card)
    found = made(
        as_spec(spec),
        target=known.target,
        paces=known.paces,
        measured=measured,
        gpus=gpus,
        price_per_gpu_hour=price_per_gpu_hour,
    )
    return found.model_copy(update={"warnings": (*found.warnings, *known.problems)})


def preview(spec: SpecLike, rows: int) -> pa.Table:
    """The output of the job's first `rows` rows, run for real on this machine and kept nowhere."""
    from parquetry.local.preview import preview_rows

    return preview_rows(as_spec(spec), rows).table


def recover(output: str, *, broker_url: str | None = None) -> Job:
    """Rebuild the job of an output folder in a broker that knows nothing of it: finished shards stay finished."""
    from parquetry.tasks.recovery import recover as rebuild

    url = known_url(broker_url)
    ledger = open_ledger(url)
    record = rebuild(output, ledger)
    return Job(record.job, record.spec.output.path, ledger, url=url)


def job_views(*, broker_url: str | None = None) -> list[JobView]:
    """Every job of the broker with its phase and progress, newest first."""
    from parquetry.monitor.job_view import JobView

    ledger = open_ledger(known_url(broker_url))
    workers = ledger.workers()
    return [JobView.of(status, workers) for status in ledger.jobs()]


def jobs(*, broker_url: str | None = None) -> list[JobStatus]:
    """Every job of the broker, newest first, without the reasons of failed shards."""
    return open_ledger(known_url(broker_url)).jobs()


def job(name: str, *, broker_url: str | None = None) -> Job:
    """The job of this id, unique beginning of an id, or name; `@last` is the newest.

    Raises UnknownJobError, AmbiguousJobError.
    """
    url = known_url(broker_url)
    ledger = open_ledger(url)
    status = ledger.status(ledger.find(name))
    return Job(status.job, status.output, ledger, url=url)


def live_workers(*, broker_url: str | None = None) -> list[WorkerStatus]:
    """The workers that the broker has heard of lately."""
    return open_ledger(known_url(broker_url)).workers()


def known_url(broker_url: str | None) -> str | None:
    """The given broker, the configured one, or the one that earlier calls of this process have started."""
    return broker_url or settings().broker_url or standing_url()


def as_spec(spec: SpecLike) -> JobSpec:
    """The validated spec. Raises a BadInputError naming the first thing that is off."""
    if isinstance(spec, JobSpec):
        return spec
    return load_spec(Path(spec)) if isinstance(spec, str | Path) else JobSpec.parse(spec)
