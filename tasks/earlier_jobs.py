"""How fast jobs that are done were, kept where they ended and in the queue: the next plan is made of it."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from parquetry.schemas.errors import ParquetryError
from parquetry.schemas.manifest import JobRecord
from parquetry.schemas.progress.history import HistoryPoint
from parquetry.schemas.progress.status import WorkerStatus
from parquetry.schemas.recent_files import RecentFiles
from parquetry.tasks.ledger.ledger import Ledger

log = logging.getLogger(__name__)
#: its points lie 2 s apart, so that a shorter job tells nothing of its pace
LEAST_S = 4.0
#: sections of a spec that say nothing of how fast its rows are, or how long their outputs
_ASIDE = {"name", "input", "output", "shards", "priority", "budget", "notify", "on_row_error"}


class EarlierJob(BaseModel):
    """The pace of a job on one kind of device, and how long its prompts and outputs were."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    #: what its engine was made of: model, quantization, dtype, attention, backend
    engine: str
    #: the same with the prompt and all that shapes outputs
    settings: str
    #: name of the card, or the CPU of which host
    device: str
    #: when it ended, seconds since the Unix epoch
    ended: float
    rows: int
    #: of all rows
    prompt_tokens: int
    output_tokens: int
    #: of the time that was measured: seconds of a card, and what they computed
    card_s: float
    computed_prompt_tokens: int
    computed_output_tokens: int


EARLIER_JOBS = RecentFiles("earlier-jobs", EarlierJob)


def engine_digest(record: JobRecord) -> str:
    """The same for jobs whose engines are alike."""
    return _digest([record.model_path, record.spec.task, record.spec.model.model_dump(mode="json")])


def settings_digest(record: JobRecord) -> str:
    """The same for jobs that ask the same of such an engine, of whatever rows."""
    return _digest([record.model_path, record.spec.model_dump(mode="json", exclude=_ASIDE)])


def try_to_keep_pace(ledger: Ledger, record: JobRecord) -> None:
    """Keep the pace of a job that is about to be done; only warns where it can't be told."""
    try:
        ends = {end.worker for end in ledger.shards.ends(record.job)}
        workers = [worker for worker in ledger.workers() if worker.worker in ends]
        # one that is gone may have had another card
        if len(workers) == len(ends) and (found := pace_of(record, ledger.history(record.job), workers)):
            EARLIER_JOBS.put(record.job, found)
            ledger.paces.keep(found.model_dump_json(), found.ended)
    except ParquetryError as error:
        log.warning("job %s: its pace is not kept: %s", record.job, error)


def known_paces(ledger: Ledger | None = None) -> list[EarlierJob]:
    """Of this machine's state folder and of a queue, each job once. Raises BrokerUnreachableError."""
    told = [] if ledger is None else filter(None, map(_read, ledger.paces.all()))
    return list({job.job: job for job in (*told, *EARLIER_JOBS.all())}.values())


def _read(text: str) -> EarlierJob | None:
    """None for what another version has written."""
    try:
        return EarlierJob.model_validate_json(text)
    except ValidationError:
        return None


def pace_of(record: JobRecord, points: Sequence[HistoryPoint], workers: Sequence[WorkerStatus]) -> EarlierJob | None:
    """The pace that a history tells; None on devices of several kinds, and of a job that was too short to tell."""
    device, cards = common_device(workers), {worker.device.count(",") + 1 for worker in workers}
    if not points or device is None or len(cards) != 1:
        return None
    first, last = points[0], points[-1]
    worker_s = (last.worker_ms - first.worker_ms) / 1000
    if worker_s < LEAST_S or not last.rows:
        return None
    return EarlierJob(
        job=record.job,
        engine=engine_digest(record),
        settings=settings_digest(record),
        device=device,
        ended=last.at_ms / 1000,
        rows=last.rows,
        prompt_tokens=last.prompt_tokens,
        output_tokens=last.output_tokens,
        card_s=worker_s * cards.pop(),
        computed_prompt_tokens=last.computed_prompt_tokens - first.computed_prompt_tokens,
        computed_output_tokens=last.computed_output_tokens - first.computed_output_tokens,
    )


def common_device(workers: Iterable[WorkerStatus]) -> str | None:
    """The kind of device that all workers have, None where they differ or one does not tell."""
    kinds = {_device_of(worker) for worker in workers}
    return kinds.pop() if len(kinds) == 1 else None


def cpu_of(host: str) -> str:
    """The CPU of a machine as a kind of device."""
    return f"the CPU of {host}"


def cpu_here() -> str:
    """That of this machine."""
    return cpu_of(socket.gethostname())


def _device_of(worker: WorkerStatus) -> str | None:
    if worker.device == "cpu":
        return cpu_of(worker.host)
    return worker.device_use.name if worker.device_use else None


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:32]
